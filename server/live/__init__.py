"""The live page of a run: what `fedward monitor` serves, read from the run's folder."""
