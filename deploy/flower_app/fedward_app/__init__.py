"""What a Flower bundle must contain; `fedward server` and `fedward client` never run it."""
