"""Pictures of a run, SVG, to be read on a light ground of their own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.performance.cases import SESSIONS, SIZES, Case
from benchmarks.performance.run import Figures, Run, load
from benchmarks.performance.targets import Target, targets
from elman_server.inspection.horizon.plot import COLOURS, STYLE

_INK, _PAPER = "#3d4450", "#ffffff"
_STYLE: dict[Any, Any] = {
    **STYLE,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor"), _INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), _INK),
    "figure.facecolor": _PAPER,
    "savefig.facecolor": _PAPER,
}
_MET, _MISSED = COLOURS[2], COLOURS[1]
_WIDEST = 2.0
"""How much of a target a bar shows at most."""


def draw(run: Run, folder: Path) -> list[Path]:
    """Draws what the run has figures for. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    if _plotted(run):
        drawn += [folder / "throughput.svg", folder / "latency.svg"]
        _throughput(run, drawn[0])
        _latency(run, drawn[1])
    if found := targets(run):
        drawn.append(folder / "targets.svg")
        _targets(found, drawn[-1])
    return drawn


def _plotted(run: Run) -> list[list[Case]]:
    """Closed loops with one element in flight, by model, of those that were measured with several
    numbers of sessions."""
    measured = {name for round in run.rounds for name in round.loads}
    found = []
    for size in SIZES:
        cases = [Case(size=size, sessions=sessions) for sessions in SESSIONS]
        found.append([case for case in cases if case.name in measured])
    return [cases for cases in found if len(cases) > 1]


def _throughput(run: Run, path: Path) -> None:
    def limit(case: Case) -> float | None:
        return run.middle(lambda round: round.limits.get(case.size.name))

    with _axes(
        path, "elements a second", "Throughput by sessions, one element in flight each"
    ) as axes:
        _lines(axes, run, lambda figures: figures.per_second, limit)


def _latency(run: Run, path: Path) -> None:
    def least(case: Case) -> float | None:
        """With one element of each session in flight, and the runtime at its best."""
        rate = run.middle(lambda round: round.limits.get(case.size.name))
        return rate and 1e3 * case.sessions / rate

    with _axes(path, "p99, ms", "Latency by sessions, one element in flight each") as axes:
        _lines(axes, run, _p99, least)


def _p99(figures: Figures) -> float | None:
    """Milliseconds."""
    return None if figures.latencies is None else 1e3 * figures.latencies.p99


@contextmanager
def _axes(path: Path, label: str, title: str) -> Iterator[Axes]:
    """Of sessions, on two log scales; saved on exit."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("log")
        axes.set_yscale("log")
        yield axes
        axes.set_xticks(SESSIONS, [f"{sessions:,}" for sessions in SESSIONS])
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.minorticks_off()
        axes.set_xlabel("sessions")
        axes.set_ylabel(label)
        axes.set_title(title, fontsize=11, loc="left")
        axes.grid(color=_INK, alpha=0.15, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper center", ncols=3, bbox_to_anchor=(0.5, -0.16), fontsize=10)
        _save(figure, path)


def _lines(
    axes: Axes,
    run: Run,
    figure: Callable[[Figures], float | None],
    limit: Callable[[Case], float | None],
) -> None:
    """A line for each model, and a dashed one for its limit."""
    for cases, colour in zip(_plotted(run), COLOURS, strict=False):
        points = [
            (case.sessions, value)
            for case in cases
            if (value := run.middle(load(case, figure))) is not None
        ]
        name = cases[0].size.name
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.8, marker="o", label=name)
        limits = [(case.sessions, value) for case in cases if (value := limit(case)) is not None]
        if limits:
            axes.plot(
                *zip(*limits, strict=True),
                color=colour,
                linewidth=1.2,
                linestyle="--",
                label=f"{name}, limit",
            )


def _targets(found: Sequence[Target], path: Path) -> None:
    """A bar for each, as long as what is reached of it."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 0.8 + 0.36 * len(found)), layout="constrained")
        axes = figure.add_subplot()
        rows = range(len(found))
        lengths = [min(target.reached, _WIDEST) for target in found]
        colours = [_MET if target.met else _MISSED for target in found]
        axes.barh(rows, lengths, color=colours, height=0.62)
        for row, (target, length) in enumerate(zip(found, lengths, strict=True)):
            seen, bound = (target.form.format(each) for each in (target.seen, target.bound))
            sign = "≥" if target.at_least else "≤"
            beyond = " →" if length < target.reached < inf else ""
            words = f"{seen} ({sign} {bound}){beyond}"
            # On paper of its own, where the line of the targets would run through it.
            paper = {"facecolor": _PAPER, "edgecolor": "none", "pad": 1.0}
            axes.text(length + 0.02, row, words, va="center", fontsize=9, bbox=paper)
        axes.axvline(1, color=_INK, linewidth=1, linestyle="--")
        labels = [f"{target.load}\n{target.measure}".replace("`", "") for target in found]
        axes.set_yticks(rows, labels, fontsize=8, parse_math=False)
        axes.invert_yaxis()
        axes.set_xlim(0, _WIDEST + 0.6)
        ticks = (0, 0.5, 1, 1.5, _WIDEST)
        axes.set_xticks(ticks, ["0", "0.5", "target", "1.5", "2 and more"])
        axes.set_title("Of each target, what is reached", fontsize=11, loc="left")
        axes.grid(axis="x", color=_INK, alpha=0.15, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    # Without the date, so that the same run makes the same file.
    figure.savefig(path, metadata={"Date": None})
