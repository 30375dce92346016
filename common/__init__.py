"""Shared by server and sites: models, maths, configuration, messages, metrics."""
