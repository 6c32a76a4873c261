"""The time axis on its way through a graph: which nodes leave the steps alone, and which do not.

A step model can answer element by element only if nothing but its recurrent operators looks at more
than one step at a time. `check` goes through the nodes, knowing where each tensor has its time
axis, refuses those that mix steps, and returns those that pick the last one.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from elman_export.errors import UnsupportedGraph
from elman_export.onnxnodes import describe
from elman_export.surgery.editor import attributes, inputs
from elman_export.surgery.recurrent import find
from elman_export.surgery.trace import Axes, Traced

_FAR = 2**31
"""Slices to the end name it by a number at least this large, or by the length itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastStep:
    """A node that picks the last step: its output has no time axis, or one of length 1."""

    output: str
    data: str
    axis: int
    keeps_axis: bool


@dataclass(frozen=True, slots=True)
class _View:
    """A node and what is known of its tensors."""

    node: onnx.NodeProto
    axes: Mapping[str, Axes]
    values: Mapping[str, np.ndarray]
    opset: int
    constants: Container[str]

    def timed(self, name: str) -> tuple[int, ...]:
        """The axes of a tensor that hold the steps, also together with something else."""
        axes = self.axes.get(name)
        return () if axes is None else (*axes.time, *axes.folded, *axes.odd)

    def rank(self, name: str) -> int:
        return int(np.ndim(self.values[name]))

    def attribute(self, name: str, default: Any = None) -> Any:
        return attributes(self.node).get(name, default)

    def input(self, index: int) -> str:
        return inputs(self.node, index)

    def axis(self, default: int, name: str = "axis") -> int:
        return self.normal(int(self.attribute(name, default)))

    def normal(self, axis: int) -> int:
        return axis % max(1, self.rank(self.input(0)))

    def listed(self, attribute: str, index: int) -> list[int] | None:
        """Whole numbers that are an attribute in old operator sets and an input in new ones."""
        found = self.attribute(attribute)
        if found is None and self.input(index):
            found = np.atleast_1d(self.values[self.input(index)]).tolist()
        return None if found is None else [int(each) for each in np.atleast_1d(found)]


def check(model: onnx.ModelProto, traced: Traced) -> list[LastStep]:
    """The nodes that pick the last step. Raises `UnsupportedGraph` for those that mix steps."""
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    recurrent = {tuple(each.node.output) for each in find(model.graph) if not each.branches}
    known = {**constants, **traced.values}
    last: list[LastStep] = []
    for node in model.graph.node:
        view = _View(node, traced.axes, known, opset, constants)
        if tuple(node.output) in recurrent or not any(view.timed(name) for name in node.input):
            continue
        if node.op_type in ("Gather", "Slice"):
            last.extend(_picked(view))
            continue
        reason = _RULES.get(node.op_type, _nothing)(view)
        if reason:
            raise UnsupportedGraph(f"{describe(node)} {reason}")
    return last


def _nothing(_: _View) -> str:
    return ""


def _convolves(view: _View) -> str:
    time = [axis for axis in view.timed(view.input(0)) if axis]
    if not time:
        return ""
    if 1 in time:
        return "takes the steps as channels, so it mixes them"
    kernel = view.attribute("kernel_shape") or list(view.values[view.input(1)].shape[2:])
    verb = "convolves" if view.node.op_type.startswith("Conv") else "pools"
    if any(kernel[axis - 2] > 1 for axis in time):
        return (
            f"{verb} over time ({max(kernel[axis - 2] for axis in time)} steps at once); a stream "
            "gives one element at a time"
        )
    strides = view.attribute("strides") or [1] * len(kernel)
    if any(strides[axis - 2] > 1 for axis in time):
        return "skips steps (strides over time); each element must have its prediction"
    return ""


def _pools_all(view: _View) -> str:
    return "pools over time" if any(axis > 1 for axis in view.timed(view.input(0))) else ""


def _reduces(view: _View) -> str:
    over = view.listed("axes", 1)
    rank = view.rank(view.input(0))
    reduced = range(rank) if over is None else [axis % rank for axis in over]
    if view.attribute("noop_with_empty_axes", 0) and over is None:
        return ""
    return "pools over time" if set(view.timed(view.input(0))) & set(reduced) else ""


def _picks_extreme(view: _View) -> str:
    return "compares the steps" if view.axis(0) in view.timed(view.input(0)) else ""


def _normalises_along(view: _View) -> str:
    axis = view.axis(-1 if view.opset >= 13 else 1)
    reach = {axis} if view.opset >= 13 else set(range(axis, view.rank(view.input(0))))
    if not set(view.timed(view.input(0))) & reach:
        return ""
    return "weighs the steps against each other (a softmax over time, as attention does)"


def _layer_norm(view: _View) -> str:
    axis = view.axis(-1)
    timed = view.timed(view.input(0))
    return "normalises over time" if any(each >= axis for each in timed) else ""


def _instance_norm(view: _View) -> str:
    timed = view.timed(view.input(0))
    return "normalises over time" if any(axis > 1 for axis in timed) else ""


def _listed_norm(view: _View) -> str:
    over = [view.normal(axis) for axis in view.attribute("axes", [0, 2, 3])]
    return "normalises over time" if set(over) & set(view.timed(view.input(0))) else ""


def _axis_norm(view: _View) -> str:
    return "normalises over time" if view.axis(-1) in view.timed(view.input(0)) else ""


def _multiplies(view: _View) -> str:
    a, b = view.input(0), view.input(1)
    ranks = view.rank(a), view.rank(b)
    contracted = (ranks[0] - 1, max(0, ranks[1] - 2))
    if view.node.op_type == "Gemm":
        contracted = (
            0 if view.attribute("transA", 0) else 1,
            1 if view.attribute("transB", 0) else 0,
        )
    if contracted[0] in view.timed(a) or contracted[1] in view.timed(b):
        return "sums over the steps (a product along time, as attention does)"
    if view.timed(a) and view.timed(b):
        other = ranks[1] - 1 if view.node.op_type != "Gemm" else 1 - contracted[1]
        if other in view.timed(b) and ranks[0] - 2 in view.timed(a):
            return "compares every step with every other, as attention does"
    return ""


def _einsum(view: _View) -> str:
    equation = str(view.attribute("equation", "")).replace(" ", "")
    terms, _, result = equation.partition("->")
    for name, term in zip(view.node.input, terms.split(","), strict=False):
        for axis in view.timed(name):
            if "..." not in term and term[axis] not in result:
                return "sums over the steps (a product along time, as attention does)"
    return ""


def _attends(_: _View) -> str:
    return "attends to all steps at once; a stream has none but the past"


def _loops(view: _View) -> str:
    return (
        "loops over the sequence by itself: what it hands from turn to turn can't be lifted out "
        "of it; export the layer as an RNN, GRU or LSTM operator"
    )


def _cumulates(view: _View) -> str:
    axis = view.normal(int(np.reshape(view.values[view.input(1)], -1)[0]))
    if axis in view.timed(view.input(0)):
        return "sums over time and hands the sum on; no state carries it"
    return ""


def _joins(view: _View) -> str:
    axis = view.axis(0)
    timed = [name for name in view.node.input if axis in view.timed(name)]
    return "joins other steps onto the sequence" if timed else ""


def _splits(view: _View) -> str:
    if view.axis(0) in view.timed(view.input(0)):
        return "splits the sequence into steps: a loop over time that was unrolled into the graph"
    return ""


def _pads(view: _View) -> str:
    pads = view.listed("pads", 1) or []
    rank = len(pads) // 2
    given = view.listed("axes", 3) if view.input(3) else None
    over = range(rank) if given is None else [view.normal(axis) for axis in given]
    padded = {axis for at, axis in enumerate(over) if pads[at] or pads[at + rank]}
    return "pads the sequence" if padded & set(view.timed(view.input(0))) else ""


def _reverses(_: _View) -> str:
    return "reverses the sequence; a stream has no end to read from"


_RULES: Mapping[str, Callable[[_View], str]] = {
    **dict.fromkeys(
        ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "MaxPool", "AveragePool", "LpPool"),
        _convolves,
    ),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _pools_all),
    **dict.fromkeys(
        (
            *(f"Reduce{kind}" for kind in ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2")),
            *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
        ),
        _reduces,
    ),
    **dict.fromkeys(("ArgMax", "ArgMin", "TopK"), _picks_extreme),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _normalises_along),
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _layer_norm,
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), _instance_norm),
    "MeanVarianceNormalization": _listed_norm,
    "LpNormalization": _axis_norm,
    **dict.fromkeys(("MatMul", "Gemm", "FusedMatMul", "MatMulInteger"), _multiplies),
    "Einsum": _einsum,
    **dict.fromkeys(
        ("Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention"), _attends
    ),
    **dict.fromkeys(("Loop", "Scan"), _loops),
    "CumSum": _cumulates,
    "Concat": _joins,
    "Split": _splits,
    "Pad": _pads,
    "ReverseSequence": _reverses,
}


def _picked(view: _View) -> Sequence[LastStep]:
    data = view.input(0)
    if not view.timed(data):
        return []
    if view.node.op_type == "Gather":
        return _gathered(view, data)
    return _sliced(view, data)


def _gathered(view: _View, data: str) -> Sequence[LastStep]:
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


def _sliced(view: _View, data: str) -> Sequence[LastStep]:
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
            raise UnsupportedGraph(f"{describe(view.node)} {_reverses(view)}")
        # A number that happens to be the length of this run is not the end of every sequence.
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
