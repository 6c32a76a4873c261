"""Operators that mix the steps of a sequence, and the reasons for a refusal.

`reason` knows how each operator reads its inputs. An unknown operator is refused too: a proof on
some sequences can't rule out that the operator reads several steps.
"""

from collections.abc import Callable, Mapping

import numpy as np

from elman_export.surgery.view import View

REVERSES = "reverses the sequence; a stream has no end to read from"
LOOPS = (
    "loops over the sequence by itself: what it hands from turn to turn can't be lifted out of it; "
    "export the layer as an RNN, GRU or LSTM operator"
)

_BY_VALUE = frozenset(
    (
        *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BiasGelu"),
        *("BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast"),
        *("CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Div", "Dropout", "Elu", "Equal"),
        *("Erf", "Exp", "FastGelu", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid"),
        *("HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log"),
        *("Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "OneHot", "Or", "PRelu", "Pow"),
        *("QLinearAdd", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QuickGelu"),
        *("Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh"),
        *("Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh"),
        *("ThresholdedRelu", "Where", "Xor"),
    )
)
"""Operators that compute each output value from inputs at the same place, whatever the axes mean.
"""
_BY_LAYOUT = frozenset(
    ("Expand", "Flatten", "Reshape", "Shape", "Size", "Squeeze", "Tile", "Transpose", "Unsqueeze")
)
"""Operators that only move values. The axes of the result, and the proof, show the new places."""
_BY_CHANNEL = frozenset(("BatchNormalization", "DequantizeLinear", "QuantizeLinear"))
"""Element-wise operators with constants for each channel."""
_BY_RUN = frozenset(("DynamicQuantizeLinear",))
"""Operators with a single scale for all values of a run. The proof shows if the result is close."""


def reason(view: View) -> str:
    """Returns why a node with steps in its inputs can't be part of a step; empty if it can."""
    operator = view.node.op_type
    if operator in _RULES:
        return _RULES[operator](view)
    if any(operator in known for known in (_BY_VALUE, _BY_LAYOUT, _BY_CHANNEL, _BY_RUN)):
        return ""
    return "may mix the steps: it is no operator that is known to leave each by itself"


def _convolves(view: View) -> str:
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


def _pools_all(view: View) -> str:
    return "pools over time" if any(axis > 1 for axis in view.timed(view.input(0))) else ""


def _reduces(view: View) -> str:
    over = view.listed("axes", 1)
    rank = view.rank(view.input(0))
    reduced = range(rank) if over is None else [axis % rank for axis in over]
    if view.attribute("noop_with_empty_axes", 0) and over is None:
        return ""
    return "pools over time" if set(view.timed(view.input(0))) & set(reduced) else ""


def _picks_extreme(view: View) -> str:
    return "compares the steps" if view.axis(0) in view.timed(view.input(0)) else ""


def _normalises_along(view: View) -> str:
    axis = view.axis(-1 if view.opset >= 13 else 1)
    reach = {axis} if view.opset >= 13 else set(range(axis, view.rank(view.input(0))))
    if not set(view.timed(view.input(0))) & reach:
        return ""
    return "weighs the steps against each other (a softmax over time, as attention does)"


def _layer_norm(view: View) -> str:
    axis = view.axis(-1)
    timed = view.timed(view.input(0))
    return "normalises over time" if any(each >= axis for each in timed) else ""


def _instance_norm(view: View) -> str:
    timed = view.timed(view.input(0))
    return "normalises over time" if any(axis > 1 for axis in timed) else ""


def _listed_norm(view: View) -> str:
    over = [view.normal(axis) for axis in view.attribute("axes", [0, 2, 3])]
    return "normalises over time" if set(over) & set(view.timed(view.input(0))) else ""


def _axis_norm(view: View) -> str:
    return "normalises over time" if view.axis(-1) in view.timed(view.input(0)) else ""


def _multiplies(view: View) -> str:
    a, b = view.input(0), view.input(1)
    ranks = view.rank(a), view.rank(b)
    contracted = (ranks[0] - 1, max(0, ranks[1] - 2))
    if view.node.op_type.endswith("Gemm"):
        contracted = (
            0 if view.attribute("transA", 0) else 1,
            1 if view.attribute("transB", 0) else 0,
        )
    if contracted[0] in view.timed(a) or contracted[1] in view.timed(b):
        return "sums over the steps (a product along time, as attention does)"
    if view.timed(a) and view.timed(b):
        other = ranks[1] - 1 if not view.node.op_type.endswith("Gemm") else 1 - contracted[1]
        if other in view.timed(b) and ranks[0] - 2 in view.timed(a):
            return "compares every step with every other, as attention does"
    return ""


def _einsum(view: View) -> str:
    equation = str(view.attribute("equation", "")).replace(" ", "")
    terms, told, result = equation.partition("->")
    kept = set(_letters(result, 3))
    if not told:
        kept = {"."} | {each for each in equation if equation.count(each) == 1}
    for name, term in zip(view.inputs, terms.split(","), strict=False):
        letters = _letters(term, view.rank(name))
        if any(letters[axis] not in kept for axis in view.timed(name)):
            return "sums over the steps (a product along time, as attention does)"
    return ""


def _letters(term: str, rank: int) -> str:
    """A letter for each axis; a dot for each axis of an ellipsis."""
    before, _, after = term.partition("...")
    return before + "." * (rank - len(before) - len(after)) + after


def _attends(_: View) -> str:
    return "attends to all steps at once; a stream has none but the past"


def _loops(_: View) -> str:
    return LOOPS


def _cumulates(view: View) -> str:
    axis = view.normal(int(np.reshape(view.values[view.input(1)], -1)[0]))
    if axis in view.timed(view.input(0)):
        return "runs a total over time that no state carries"
    return ""


def _joins(view: View) -> str:
    axis = view.axis(0)
    timed = [name for name in view.inputs if axis in view.timed(name)]
    return "joins other steps onto the sequence" if timed else ""


def _splits(view: View) -> str:
    if view.axis(0) in view.timed(view.input(0)):
        return "splits the sequence into steps: a loop over time that was unrolled into the graph"
    return ""


def _pads(view: View) -> str:
    pads = view.listed("pads", 1) or []
    rank = len(pads) // 2
    given = view.listed("axes", 3) if view.input(3) else None
    over = range(rank) if given is None else [view.normal(axis) for axis in given]
    padded = {axis for at, axis in enumerate(over) if pads[at] or pads[at + rank]}
    return "pads the sequence" if padded & set(view.timed(view.input(0))) else ""


def _reverses(_: View) -> str:
    return REVERSES


def _looks_up(view: View) -> str:
    if view.timed(view.input(0)) and view.input(1) in view.computed:
        return "picks by values of the sequence, so it may pick other steps"
    return ""


def _chooses(_: View) -> str:
    return "chooses by values of the sequence what is computed for all of it"


def _transforms(view: View) -> str:
    given = view.input(2)
    axis = view.normal(int(view.values[given])) if given else view.axis(1)
    return "transforms over time" if axis in view.timed(view.input(0)) else ""


def _channel_norm(view: View) -> str:
    return "normalises over time" if 1 in view.timed(view.input(0)) else ""


def _quantized_product(view: View) -> str:
    a, b = view.input(0), view.input(3)
    if view.timed(b) or view.rank(a) - 1 in view.timed(a):
        return "sums over the steps (a product along time, as attention does)"
    return ""


_RULES: Mapping[str, Callable[[View], str]] = {
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
    **dict.fromkeys(
        ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), _layer_norm
    ),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), _instance_norm),
    "MeanVarianceNormalization": _listed_norm,
    "LpNormalization": _axis_norm,
    "LRN": _channel_norm,
    **dict.fromkeys(
        (
            *("MatMul", "Gemm", "FusedGemm", "MatMulInteger", "MatMulIntegerToFloat"),
            *("DynamicQuantizeMatMul", "MatMulNBits"),
        ),
        _multiplies,
    ),
    "QLinearMatMul": _quantized_product,
    "Einsum": _einsum,
    **dict.fromkeys(
        (
            *("Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention"),
            "LinearAttention",
        ),
        _attends,
    ),
    **dict.fromkeys(("Loop", "Scan"), _loops),
    **dict.fromkeys(("CumSum", "CumProd"), _cumulates),
    "Concat": _joins,
    "Split": _splits,
    "Pad": _pads,
    "ReverseSequence": _reverses,
    **dict.fromkeys(("GatherElements", "GatherND"), _looks_up),
    "If": _chooses,
    "DFT": _transforms,
}
