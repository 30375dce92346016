"""`make bench`: speed and memory against a plain loop, in one run on this machine."""
