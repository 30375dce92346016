"""Reads a hospital's files, and refuses what the schema does not promise."""
