"""The resident part of a hospital: torch-free runner, worker with the data, and their socket."""
