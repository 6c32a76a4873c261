"""Follows the time axis through a graph, and finds nodes that mix or pick steps.

A step model can answer element by element only if no node except its recurrent operators reads more
than one step at a time. `check` goes through the nodes, with the time axis of each tensor known.
Nodes that mix steps are refused; nodes that pick the last step are returned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from elman_export.errors import UnsupportedGraph
from elman_export.original import functions
from elman_export.surgery import mixing
from elman_export.surgery.editor import reads
from elman_export.surgery.onnxnodes import SIZES_ONLY, describe
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

    output: str
    data: str
    axis: int
    keeps_axis: bool


def check(model: onnx.ModelProto, traced: Traced) -> list[LastStep]:
    """The nodes that pick the last step. Raises `UnsupportedGraph` for a node that mixes steps."""
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    recurrent = {tuple(each.node.output) for each in find(model.graph) if not each.branches}
    recurrent |= {tuple(node.output) for node in model.graph.node if functions.is_ours(node)}
    known = {**constants, **traced.values}
    computed = _computed(model.graph, traced)
    last: list[LastStep] = []
    for node in model.graph.node:
        view = View(node, traced.axes, known, opset, constants, computed)
        if tuple(node.output) in recurrent or not any(view.timed(name) for name in reads(node)):
            continue
        if node.op_type in ("Gather", "Slice"):
            last.extend(_picked(view))
            continue
        reason = mixing.reason(view)
        if reason:
            raise UnsupportedGraph(f"{describe(node)} {reason}")
    return last


def _computed(graph: onnx.GraphProto, traced: Traced) -> set[str]:
    """Tensors computed from values of the sequence; sizes do not count."""
    found = {value.name for value in graph.input if traced.axes[value.name].timed}
    for node in graph.node:
        if node.op_type not in SIZES_ONLY and reads(node) & found:
            found.update(node.output)
    return found


def _picked(view: View) -> Sequence[LastStep]:
    data = view.input(0)
    if not view.timed(data):
        return []
    if view.node.op_type == "Gather":
        return _gathered(view, data)
    return _sliced(view, data)


def _gathered(view: View, data: str) -> Sequence[LastStep]:
    axis = view.axis(0)
    if axis not in view.timed(data):
        return []
    length = view.values[data].shape[axis]
    index = view.values[view.input(1)]
    written = view.input(1) in view.constants
    picked = int(index.reshape(-1)[0]) if index.size == 1 else 0
    if index.size == 1 and (picked == -1 or (picked == length - 1 and not written)):
        return [
            LastStep(output=view.node.output[0], data=data, axis=axis, keeps_axis=index.ndim > 0)
        ]
    raise UnsupportedGraph(
        f"{describe(view.node)} picks some of the steps (index {index.reshape(-1)[:3].tolist()}); "
        "only the last one is known to a stream"
    )


def _sliced(view: View, data: str) -> Sequence[LastStep]:
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
                LastStep(output=view.node.output[0], data=data, axis=axis, keeps_axis=True)
            )
            continue
        raise UnsupportedGraph(
            f"{describe(view.node)} picks some of the steps ({start} to {end}); only the last one "
            "is known to a stream"
        )
    return found
