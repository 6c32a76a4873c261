"""Recipes: each trains one of the bundled models from its data and writes it with its card.

A recipe is a module with `run(data, output) -> Report`. It is seeded and uses one thread, so that
it gives the same file again on the same machine and library versions.
"""
