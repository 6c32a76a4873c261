"""All tensors of a run, with batch and time axes.

An axis is found by its length. The graph runs with a second batch size, and with a second number of
steps. Batch axes grow with the batch size, time axes with the steps.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from elman_export.proof.stepmodel import Arrays, Session
from elman_export.surgery import graphs

SIZES = ((3, 11), (3, 13), (5, 11))
"""(batch, time) of the runs: different numbers, none a multiple of another."""
ONE_ROW = ((1, 11), (1, 13), (1, 11))
"""(batch, time) of the runs for a graph that takes one row only; no axis counts as a batch axis."""

Sizes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Axes:
    """The axes of a tensor that grow with rows or steps."""

    time: tuple[int, ...]
    batch: tuple[int, ...]
    folded: tuple[int, ...]
    """Axes of length batch x time, or of another multiple of the number of steps."""
    odd: tuple[int, ...]
    """Axes that grow with the number of steps, but not in proportion."""

    @property
    def timed(self) -> bool:
        return bool(self.time or self.folded or self.odd)


@dataclass(frozen=True, slots=True)
class Traced:
    """The tensors of the main graph, by name."""

    axes: Mapping[str, Axes]
    values: Mapping[str, np.ndarray]
    """The values in the first run."""


def run(model: ir.Model, feed: Arrays, names: Iterable[str] | None = None) -> Arrays:
    """Values of the main graph by name: all, or only `names`.

    With `names`, only the necessary nodes run.
    """
    graph = model.graph
    given = {value.name for value in graph.inputs}
    if names is None:
        names = [str(value.name) for value in graphs.values(graph)]
    found, wanted = dict[str, np.ndarray](), list[str]()
    for name in dict.fromkeys(names):
        if name in given:
            found[name] = feed[name]
        elif name in graph.initializers:
            found[name] = graphs.initializer_value(graph.initializers[name])
        else:
            wanted.append(name)
    if not wanted:
        return found
    session = Session(graphs.write(graphs.extract(model, wanted)).SerializeToString())
    return {**found, **session.run(wanted, {name: feed[name] for name in session.inputs})}


def track(model: ir.Model, feed: Callable[[int, int], Arrays], sizes: Sizes = SIZES) -> Traced:
    """Runs the graph in three sizes; `feed(batch, time)` returns the graph's inputs."""
    feeds = [feed(*size) for size in sizes]
    runs = [{**given, **run(model, given)} for given in feeds]
    axes = {
        name: _axes([np.shape(each[name]) for each in runs], sizes)
        for name, value in runs[0].items()
        if isinstance(value, np.ndarray)
    }
    return Traced(axes, runs[0])


def _axes(shapes: Sequence[tuple[int, ...]], sizes: Sizes) -> Axes:
    (batch, time), (_, more_time), (more_batch, _) = sizes
    one, longer, wider = shapes
    if not len(one) == len(longer) == len(wider):
        return Axes((), (), (), tuple(range(len(one))))
    found: dict[str, list[int]] = {"time": [], "batch": [], "folded": [], "odd": []}
    for axis, (length, long, wide) in enumerate(zip(one, longer, wider, strict=True)):
        if long == length:
            if length != wide and wide * batch == length * more_batch:
                found["batch"].append(axis)
        elif (length, long) == (time, more_time) and wide == length:
            found["time"].append(axis)
        elif long * time == length * more_time:
            found["folded"].append(axis)
        else:
            found["odd"].append(axis)
    return Axes(**{name: tuple(axes) for name, axes in found.items()})
