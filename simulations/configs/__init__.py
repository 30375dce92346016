"""Configurations that ship with fedward: `fedward simulate NAME`."""
