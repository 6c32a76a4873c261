"""A probability as a bar, coloured from red over yellow to green on a colour terminal."""

from math import isnan

from rich.color import Color
from rich.style import Style
from rich.text import Text

WIDTH = 24


def bar(probability: float, width: int = WIDTH) -> Text:
    """Returns `width` cells, filled in proportion to `probability` (0 to 1); no cell is filled for
    NaN."""
    probability = 0.0 if isnan(probability) else min(1.0, max(0.0, probability))
    full = round(probability * width)
    red = min(1.0, 2 * (1 - probability))
    green = min(1.0, 2 * probability)
    style = Style(color=Color.from_rgb(40 + 190 * red, 40 + 160 * green, 60))
    return Text.assemble(("█" * full, style), ("░" * (width - full), "dim"))
