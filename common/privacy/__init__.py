"""What noisy training costs in (epsilon, delta), and the claim that goes with it."""
