"""The proof that a step model computes what its original computes."""
