"""Synthetic clinical tables: synthesisers in scikit-learn's manner."""
