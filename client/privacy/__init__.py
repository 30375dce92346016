"""Differential privacy at a site: how patients are drawn, clipped and hidden in noise."""
