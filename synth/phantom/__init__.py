"""CT phantoms with known truth."""
