"""Studies that repeat what a paper did, with the controls that it left out."""
