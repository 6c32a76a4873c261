"""`elman stream` at a terminal: keys, what is typed with them, and taking it back."""
