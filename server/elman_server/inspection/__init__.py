"""Measurements of a model for `elman inspect`."""
