"""A probability as a bar, coloured from red over yellow to green where there are colours."""

from math import isnan

from rich.color import Color
from rich.style import Style
from rich.text import Text

WIDTH = 24


def bar(probability: float, width: int = WIDTH) -> Text:
    """`width` cells, as many of them full as `probability`, from 0 to 1, says; none of NaN."""
    probability = 0.0 if isnan(probability) else min(1.0, max(0.0, probability))
    full = round(probability * width)
    red = min(1.0, 2 * (1 - probability))
    green = min(1.0, 2 * probability)
    style = Style(color=Color.from_rgb(40 + 190 * red, 40 + 160 * green, 60))
    return Text.assemble(("█" * full, style), ("░" * (width - full), "dim"))
