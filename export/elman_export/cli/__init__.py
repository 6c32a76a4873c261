"""The `elman export` command."""
