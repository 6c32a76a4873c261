"""Replaces hard-coded sizes in a graph with sizes read from the input.

An exporter traces an example, and writes the example's length and batch size into the shapes for
Reshape, Expand and Slice. Node by node, in the graph's order, such numbers become sizes read from
the input, wherever the incoming tensors show the need.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import onnx_ir as ir

from elman_export.errors import UnsupportedGraph
from elman_export.proof.stepmodel import Arrays
from elman_export.surgery import graphs, trace
from elman_export.surgery.graphs import Builder, describe

SHAPED = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0, "Tile": 1}
"""The index of the shape among the inputs, by operator."""
_END = 2**62
_MOST_WAYS = 64


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers of rows and steps in a run."""

    batch: int
    time: int

    def of(self, kind: str, number: int) -> int:
        """The size of a kind (see `_follow`); for the kind `number`, the number itself."""
        sizes = {"time": self.time, "batch": self.batch, "rows": self.batch * self.time}
        return sizes.get(kind, number)


def loosen(
    model: ir.Model,
    *,
    element: str,
    axes: tuple[int | None, int],
    open_batch: bool,
    fixed: Sizes,
    other: Sizes,
    feed: Arrays,
    other_feed: Arrays,
) -> None:
    """Makes a graph exported for `fixed` sizes run for other sizes, in place.

    `axes` are the batch and time axes of the input `element`. With `open_batch`, the number of rows
    was open already, so the graph does not contain it. Raises `UnsupportedGraph` at the first node
    that can't follow the input's sizes.
    """
    graph, builder = model.graph, Builder(model)
    known = trace.run(model, feed)
    x = graphs.input_named(graph, element)
    sizes: dict[str, ir.Value] = {}

    def size(kind: str) -> ir.Value:
        """A single number: the input's batch, time, or batch x time."""
        if kind not in sizes:
            if kind == "rows" and axes[0] is not None:
                sizes[kind] = builder.node("Mul", [size("batch"), size("time")])
            else:
                axis = axes[0] if kind == "batch" else axes[1]
                index = builder.constant(np.array([axis], np.int64), "elman/axis")
                sizes[kind] = builder.node("Gather", [builder.node("Shape", [x]), index])
        return sizes[kind]

    for node in [node for node in graph if node.op_type in SHAPED]:
        index = SHAPED[node.op_type]
        shape = graphs.constant(graphs.input_at(node, index))
        if shape is None:
            continue
        written = [int(number) for number in shape]
        ways = list(_ways(written, fixed, open_batch))
        kinds = _follow(node, ways, other, written, model, other_feed)
        if any(kind != "number" for kind in kinds):
            parts = [
                builder.constant(np.array([number], np.int64), "elman/size")
                if kind == "number"
                else size(kind)
                for kind, number in zip(kinds, written, strict=True)
            ]
            graphs.set_input(node, index, builder.node("Concat", parts, axis=0))
            graph.sort()
    _loosen_slices(builder, known, fixed)


def _follow(
    node: ir.Node,
    ways: Sequence[tuple[str, ...]],
    other: Sizes,
    written: Sequence[int],
    model: ir.Model,
    other_feed: Arrays,
) -> Sequence[str]:
    """The kind of each number in a shape: `number`, `batch`, `time` or `rows` (batch x time)."""
    if node.op_type != "Reshape":
        return ways[0]
    assert node.inputs[0] is not None
    name = str(node.inputs[0].name)
    data = trace.run(model, other_feed, [name])[name]
    for kinds in ways:
        shape = [
            data.shape[axis] if number == 0 and axis < data.ndim else other.of(kind, number)
            for axis, (kind, number) in enumerate(zip(kinds, written, strict=True))
        ]
        if -1 in shape:
            rest = prod(number for number in shape if number != -1)
            if rest and data.size % rest == 0:
                return kinds
        elif prod(shape) == data.size:
            return kinds
    raise UnsupportedGraph(
        f"{describe(node)} makes a tensor of shape {list(written)}, which was written into the "
        "graph for the sizes that it was exported with, and can't be told for others"
    )


def _ways(written: Sequence[int], fixed: Sizes, open_batch: bool) -> Iterator[tuple[str, ...]]:
    """Possible kinds for the numbers of a shape, the likeliest first."""
    choices = []
    for number in written:
        kinds = []
        if number > 0 and number == fixed.time:
            kinds.append("time")
        if number > 0 and number == fixed.batch and not open_batch:
            kinds.append("batch")
        if number > 0 and number == fixed.batch * fixed.time and not open_batch:
            kinds.append("rows")
        choices.append([*kinds, "number"])
    ways = product(*choices)
    found = [kinds for kinds, _ in zip(ways, range(_MOST_WAYS**2), strict=False)]
    # A size stands in a shape only once, and a number that may follow the input probably does.
    found.sort(
        key=lambda kinds: (
            max(kinds.count("time"), kinds.count("batch"), kinds.count("rows")) > 1,
            kinds.count("number"),
        )
    )
    return iter(found[:_MOST_WAYS])


def _loosen_slices(builder: Builder, known: Arrays, fixed: Sizes) -> None:
    """Extends slices from the exported length to the end of the sequence."""
    for node in list(builder.graph):
        written = graphs.constant(graphs.input_at(node, 2))
        if node.op_type != "Slice" or written is None:
            continue
        ends = written.copy()
        data = graphs.input_at(node, 0)
        shape = np.shape(known.get(str(data.name), 0)) if data is not None else ()
        given = graphs.constant(graphs.input_at(node, 3))
        over = range(len(ends)) if given is None else [int(axis) for axis in given]
        changed = False
        for at, axis in enumerate(over):
            if shape and ends[at] == shape[axis] == fixed.time:
                ends[at], changed = _END if ends.dtype == np.int64 else 2**31 - 1, True
        if changed:
            graphs.set_input(node, 2, builder.constant(ends, "elman/ends"))
