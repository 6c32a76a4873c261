"""The example's pictures: accuracy by lag, and the gradient's norm by lag."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elman_server.horizon.plot import COLOURS, INK, STYLE

COLOUR = dict(zip(("LSTM", "RNN"), COLOURS, strict=False))


def accuracy(path: Path, right: Mapping[str, Mapping[int, Sequence[float]]], guess: float) -> None:
    """Shares of right answers by kind and lag, one for each seed: a bar for their mean, a dot for
    each; `guess` is what guessing gets."""
    with _axes(path) as axes:
        lags = list(next(iter(right.values())))
        width = 0.36
        for index, (kind, by_lag) in enumerate(right.items()):
            places = [place + (index - 0.5) * (width + 0.04) for place in range(len(lags))]
            means = [sum(by_lag[lag]) / len(by_lag[lag]) for lag in lags]
            bars = axes.bar(places, means, width, color=COLOUR[kind], label=kind, alpha=0.85)
            axes.bar_label(bars, [f"{100 * mean:.0f} %" for mean in means], padding=2, fontsize=9)
            for place, lag in zip(places, lags, strict=True):
                axes.plot([place] * len(by_lag[lag]), by_lag[lag], ".", color=INK, ms=4)
        axes.axhline(guess, color=INK, linewidth=1, linestyle="--")
        axes.set_xticks(range(len(lags)), [str(lag) for lag in lags])
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.set_ylim(0, 1.08)
        axes.set_xlabel("lag: elements between a letter and the prompt that asks for it")
        axes.set_title("Right answers (dashed: guessing)", fontsize=11, loc="left")
        axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.6)
        axes.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.16))


def gradient(path: Path, norms: Mapping[str, Mapping[str, Sequence[float]]], lag: int) -> None:
    """Norms by kind, then by `before` and `after` training, from lag 0 on."""
    with _axes(path) as axes:
        for kind, curves in norms.items():
            for when, style in (("before", "--"), ("after", "-")):
                curve = curves[when]
                axes.plot(
                    [value / curve[0] for value in curve],
                    style,
                    color=COLOUR[kind],
                    label=f"{kind}, {when} training",
                    linewidth=1.8,
                )
        axes.set_yscale("log")
        axes.axvline(lag, color=INK, linewidth=1, linestyle=":")
        axes.set_xlabel(f"lag: elements back from a prompt (dotted: the letter, {lag} back)")
        axes.set_title("Norm of the gradient, of that at lag 0", fontsize=11, loc="left")
        axes.set_xlim(left=0)
        axes.minorticks_off()
        axes.grid(color=INK, alpha=0.25, linewidth=0.6)
        axes.legend(loc="lower left")


@contextmanager
def _axes(path: Path) -> Iterator[Axes]:
    """Axes in the style of `elman inspect`'s pictures, written to an SVG when the block ends."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        yield axes
        figure.savefig(path, transparent=True, metadata={"Date": None})
