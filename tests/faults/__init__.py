"""A real federation on the loopback interface, and what is done to it."""
