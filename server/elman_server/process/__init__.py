"""This process: its memory, its CPU time, its threads, the limits on it, and its end."""
