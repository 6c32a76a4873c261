"""Plot of influence by lag as SVG or PNG, readable on light and on dark pages.

matplotlib is imported only when a plot is drawn.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from elman_server.inspection.horizon.influence import THRESHOLD

SUFFIXES = (".svg", ".png")
EXTRA = "plot"
"""The extra that installs matplotlib."""

INK = "#808080"
"""A gray with contrast to both white and black."""
COLOURS = ("#2f86d6", "#e07b26", "#3a9d5d", "#b35fc0", "#c9a227", "#d64f4f")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "elman",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
"""matplotlib's settings: text stays text, and equal data gives equal files."""

_LEAST = 1e-4
"""Lowest possible lower edge of the plot. Curves may go below the edge."""


def is_available() -> bool:
    """Whether the extra is installed."""
    return find_spec("matplotlib") is not None


def draw(path: Path, curves: Mapping[str, Sequence[float]], title: str) -> None:
    """Draws `curves` by label, each the relative influence from lag 0 on, on two log axes.

    Lag 0, where a curve normally is 1, is drawn at 0.5, near the left edge. The file's suffix must
    be in `SUFFIXES`. Raises `OSError` if the file can't be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        longest = max(len(curve) for curve in curves.values()) - 1
        lowest = THRESHOLD
        lines = []
        for curve, colour in zip(curves.values(), _colours(len(curves)), strict=True):
            lags = [lag or 0.5 for lag in range(len(curve))]
            values = [max(value, _LEAST / 10) for value in curve]
            lines += axes.plot(lags, values, color=colour, linewidth=1.8)
            lowest = min([lowest, *values])
        axes.axhline(THRESHOLD, color=INK, linewidth=1, linestyle="--")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlim(0.45, longest * 1.1)
        axes.set_ylim(bottom=max(lowest / 2, _LEAST))
        ticks = [0.5, *(2.0**power for power in range(longest.bit_length()))]
        axes.set_xticks(ticks, ["0", *(f"{tick:.0f}" for tick in ticks[1:])])
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        axes.minorticks_off()
        axes.set_xlabel("lag: elements between the change and the prediction")
        axes.set_ylabel("influence, of that on its own prediction")
        # Dollar signs in names and paths must not start formulas.
        axes.set_title(title, fontsize=11, loc="left", parse_math=False)
        axes.grid(color=INK, alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        # Explicit handles: by itself, matplotlib omits labels that begin with an underscore.
        legend = axes.legend(
            lines, list(curves), loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.16)
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
        figure.savefig(path, dpi=150, transparent=True, metadata=_metadata(path))


def _colours(count: int) -> Sequence[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _metadata(path: Path) -> dict[str, str | None]:
    """Omits the date, so equal data gives equal files."""
    return {"Date": None} if path.suffix.lower() == ".svg" else {}
