"""CME: how the weights of a layer move within a round, and what follows from it."""
