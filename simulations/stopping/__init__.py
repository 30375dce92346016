"""Which stop rule saves work? Runs recorded to their full budget, and every rule replayed."""
