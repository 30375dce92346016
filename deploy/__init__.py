"""The `fedward` command and the Flower application."""
