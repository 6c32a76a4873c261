"""`elman stream` at a terminal: keys, typed text, and Backspace."""
