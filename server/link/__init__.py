"""The coordinator's side of the wire: SuperLink, node registrations, and the process of a run."""
