"""Pictures of the example: accuracy by lag, and the gradient's norm by lag.

matplotlib is loaded at the first drawing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from elman_server.inspection.horizon.plot import COLOURS, INK, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = tuple(
    (colour, line, opacity)
    for colour in COLOURS[:2]
    for line, opacity in (("-", 0.95), ("--", 0.4))
)
"""Colour, line and opacity: the LSTM with the better and with torch's initial weights, then the
RNN's."""


def accuracy(path: Path, right: Mapping[str, Mapping[str, Sequence[float]]], guess: float) -> None:
    """Shares of right answers by label and lag, one for each seed.

    Bars show means and dots show seeds. `guess` is the accuracy of guessing.
    """
    with _axes(path) as axes:
        lags = list(next(iter(right.values())))
        width = 0.8 / len(right)
        for index, (label, by_lag) in enumerate(right.items()):
            colour, _, opacity = _STYLES[index]
            places = [place + (index + 0.5) * width - 0.4 for place in range(len(lags))]
            means = [sum(by_lag[lag]) / len(by_lag[lag]) for lag in lags]
            bars = axes.bar(places, means, width * 0.9, color=colour, alpha=opacity, label=label)
            axes.bar_label(bars, [f"{100 * mean:.0f}" for mean in means], padding=2, fontsize=8)
            for place, lag in zip(places, lags, strict=True):
                if len(by_lag[lag]) > 1:
                    axes.plot([place] * len(by_lag[lag]), by_lag[lag], ".", color=INK, ms=4)
        axes.axhline(guess, color=INK, linewidth=1, linestyle="--")
        axes.set_xticks(range(len(lags)), lags)
        axes.tick_params(axis="x", length=0)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.set_ylim(0, 1.08)
        axes.set_xlabel("lag: elements between a letter and the prompt that asks for it")
        axes.set_title("Right answers (dashed: guessing)", fontsize=11, loc="left")
        axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.6)
        axes.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.16))


def gradient(path: Path, norms: Mapping[str, Sequence[float]], lags: Sequence[int]) -> None:
    """Norms by label, from lag 0 on. `lags` are the lags of the task."""
    with _axes(path) as axes:
        for (label, curve), (colour, line, _) in zip(norms.items(), _STYLES, strict=False):
            relative = [value / curve[0] for value in curve]
            axes.plot(relative, line, color=colour, label=label, linewidth=1.8)
        axes.set_yscale("log")
        for lag in lags:
            axes.axvline(lag, color=INK, linewidth=1, linestyle=":")
        axes.set_xticks([0, *lags])
        axes.set_xlim(left=0)
        axes.minorticks_off()
        axes.set_xlabel("lag: elements back from the prompt")
        title = "Norm of the gradient before training, of that at lag 0"
        axes.set_title(title, fontsize=11, loc="left")
        axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.6)
        axes.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.16))


@contextmanager
def _axes(path: Path) -> "Iterator[Axes]":
    """Axes in the style of `elman inspect`'s pictures. The block's end writes the SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        yield axes
        figure.savefig(path, transparent=True, metadata={"Date": None})
