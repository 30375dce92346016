"""What a synthetic table is worth, how true it is, and what it tells about patients."""
