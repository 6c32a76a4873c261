"""Random shopping baskets: the ingredients of a dish or two, with unrelated items in between.

A seeded generator stands for a shop's records. Independent of the network.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np

RECIPES = {
    "pancakes": ("flour", "milk", "eggs", "maple syrup"),
    "guacamole": ("avocados", "limes", "onions", "coriander", "tortilla chips"),
    "bolognese": ("spaghetti", "minced beef", "tomatoes", "onions", "garlic", "parmesan"),
    "carbonara": ("spaghetti", "eggs", "bacon", "parmesan"),
    "curry": ("rice", "chicken", "coconut milk", "onions", "garlic", "curry paste"),
    "salad": ("lettuce", "tomatoes", "cucumber", "feta", "olive oil"),
    "breakfast": ("bread", "butter", "jam", "coffee", "milk"),
    "burgers": ("buns", "minced beef", "cheddar", "lettuce", "onions", "ketchup"),
    "banana bread": ("bananas", "flour", "butter", "eggs", "walnuts"),
}
"""Ingredients of each dish, in the usual order of shopping."""

OTHERS = ("toothpaste", "batteries", "kitchen roll", "cat food", "chocolate")
"""Items bought now and then, for any dish."""

ITEMS = (
    "<basket>",
    *sorted({item for recipe in RECIPES.values() for item in recipe} | {*OTHERS}),
    "<paid>",
)
"""Names by id. Every basket begins with `<basket>` and ends with `<paid>`."""

LONGEST = 20
"""Items in the longest basket, with the first and the last."""

_HELD_OUT_SEED = 1_000_000
_SWAPPED, _FORGOTTEN, _OTHER = 0.15, 0.1, 0.1


def baskets(rng: np.random.Generator) -> Iterator[list[int]]:
    """Endless baskets, as ids. An item is in a basket at most once."""
    names = list(RECIPES)
    while True:
        items: list[str] = []
        for dish in rng.choice(names, size=rng.integers(1, 3), replace=False):
            for item in _taken(RECIPES[str(dish)], rng):
                if rng.random() < _OTHER:
                    items.append(str(rng.choice(OTHERS)))
                items.append(item)
        once = list(dict.fromkeys(items))
        yield [ITEMS.index(item) for item in ("<basket>", *once[: LONGEST - 2], "<paid>")]


def held_out(count: int) -> list[list[int]]:
    """Baskets outside the training set."""
    return list(islice(baskets(np.random.default_rng(_HELD_OUT_SEED)), count))


def _taken(recipe: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    """A recipe's items, some forgotten, some an item too early."""
    things = [thing for thing in recipe if rng.random() > _FORGOTTEN]
    for place in range(len(things) - 1):
        if rng.random() < _SWAPPED:
            things[place : place + 2] = things[place + 1], things[place]
    return things
