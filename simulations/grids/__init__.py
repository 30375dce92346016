"""Flower grids for simulations: one process, or Ray actors that live for the whole run."""
