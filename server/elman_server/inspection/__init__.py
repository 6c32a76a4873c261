"""What `elman inspect` measures of a model."""
