"""The schemas that ship with fedward, as YAML files."""
