"""`elman export`."""
