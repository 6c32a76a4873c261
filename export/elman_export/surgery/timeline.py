"""Follows the time axis through a graph, and finds nodes that mix or pick steps.

A step model can answer element by element only if no node except its recurrent operators reads more
than one step at a time. `check` goes through the nodes, with the time axis of each tensor known.
Nodes that mix steps are refused; nodes that pick the last step are returned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from elman_export.errors import UnsupportedGraph
from elman_export.original import functions
from elman_export.surgery import mixing
from elman_export.surgery.graphs import describe, initializer_value, reads
from elman_export.surgery.onnxnodes import SIZES_ONLY
from elman_export.surgery.recurrent import find
from elman_export.surgery.trace import Traced
from elman_export.surgery.view import View

_FAR = 2**31
"""An end of a slice at or above this number means the end of any sequence.

A computed end that equals the length means the end too.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastStep:
    """A node that picks the last step: its output has no time axis, or a time axis of length 1."""

    output: ir.Value
    data: ir.Value
    axis: int
    keeps_axis: bool


def check(model: ir.Model, traced: Traced) -> list[LastStep]:
    """The nodes that pick the last step. Raises `UnsupportedGraph` for a node that mixes steps."""
    graph = model.graph
    constants = {name: initializer_value(value) for name, value in graph.initializers.items()}
    recurrent = {each.node for each in find(graph) if not each.branches}
    known = {**constants, **traced.values}
    computed = _computed(graph, traced)
    last: list[LastStep] = []
    for node in graph:
        view = View(node, traced.axes, known, graph.opset_imports[""], constants, computed)
        timed = any(view.timed(str(value.name)) for value in reads(node))
        if node in recurrent or functions.is_ours(node) or not timed:
            continue
        if node.op_type in ("Gather", "Slice"):
            last.extend(_picked(view))
            continue
        reason = mixing.reason(view)
        if reason:
            raise UnsupportedGraph(f"{describe(node)} {reason}")
    return last


def _computed(graph: ir.Graph, traced: Traced) -> set[str]:
    """Values computed from values of the sequence; sizes do not count."""
    found = {value for value in graph.inputs if traced.axes[str(value.name)].timed}
    for node in graph:
        if node.op_type not in SIZES_ONLY and reads(node) & found:
            found.update(node.outputs)
    return {str(value.name) for value in found}


def _picked(view: View) -> Sequence[LastStep]:
    source = view.node.inputs[0]
    if source is None or not view.timed(view.input(0)):
        return []
    if view.node.op_type == "Gather":
        return _gathered(view, source)
    return _sliced(view, source)


def _gathered(view: View, source: ir.Value) -> Sequence[LastStep]:
    data = view.input(0)
    axis = view.axis(0)
    if axis not in view.timed(data):
        return []
    length = view.values[data].shape[axis]
    index = view.values[view.input(1)]
    written = view.input(1) in view.constants
    picked = int(index.reshape(-1)[0]) if index.size == 1 else 0
    if index.size == 1 and (picked == -1 or (picked == length - 1 and not written)):
        return [
            LastStep(output=view.node.outputs[0], data=source, axis=axis, keeps_axis=index.ndim > 0)
        ]
    raise UnsupportedGraph(
        f"{describe(view.node)} picks some of the steps (index {index.reshape(-1)[:3].tolist()}); "
        "only the last one is known to a stream"
    )


def _sliced(view: View, source: ir.Value) -> Sequence[LastStep]:
    data = view.input(0)
    rank = view.rank(data)
    starts = view.listed("starts", 1) or []
    ends = view.listed("ends", 2) or []
    over = view.listed("axes", 3) or list(range(len(starts)))
    strides = view.listed("steps", 4) or [1] * len(starts)
    found = []
    for axis, start, end, stride in zip(over, starts, ends, strides, strict=True):
        axis %= rank
        if axis not in view.timed(data):
            continue
        length = view.values[data].shape[axis]
        if stride < 0:
            raise UnsupportedGraph(f"{describe(view.node)} {mixing.REVERSES}")
        # A constant equal to the length of this run is not the end of every sequence.
        written = view.opset < 10 or view.input(2) in view.constants
        to_end = end >= (_FAR if written else length)
        begins = view.opset < 10 or view.input(1) in view.constants
        if (start == 0 or (start == -length and not begins)) and to_end and stride == 1:
            continue
        if (start == -1 or (start == length - 1 and not begins)) and to_end:
            found.append(
                LastStep(output=view.node.outputs[0], data=source, axis=axis, keeps_axis=True)
            )
            continue
        raise UnsupportedGraph(
            f"{describe(view.node)} picks some of the steps ({start} to {end}); only the last one "
            "is known to a stream"
        )
    return found
