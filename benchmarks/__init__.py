"""What the figures in the documentation come from. Each module runs with `python -m`."""
