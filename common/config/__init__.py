"""Configuration of a run: one YAML file into frozen models."""
