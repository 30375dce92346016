"""The sub-commands of `fedward`: a module per group, which imports what it needs when called."""
