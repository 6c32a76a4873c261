"""Sessions, their table and slots, and the values of their opens and ends."""
