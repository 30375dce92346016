"""The coordinator's side: rounds, strategies, checkpoints, report. Never sees a patient."""
