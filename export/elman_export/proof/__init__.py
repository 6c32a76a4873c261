"""The proof that a step model computes the same as the original."""
