"""Recipes: each trains a bundled model from data, and writes the model with a card.

A recipe is a module with `run(data, output) -> Report`. A recipe is seeded and uses one thread, so
a repeated run on the same machine and library versions writes the same file.
"""
