"""Replaces operators whose rounding in ONNX Runtime depends on the batch.

A row's result must not depend on the rows beside it, not even in the last bit. In ONNX Runtime,
three kinds of operators break this rule:
- Element-wise kernels from Eigen (Sin, Elu, Log, ...) compute the last few numbers of a tensor
  differently from the rest.
- Sums and means over the last axis add up in an order that depends on the rows.
- A convolution of width 1 is a product of the steps, not of the weights.

ONNX Runtime's own kernels (Exp, Tanh, Tan, ...), LayerNormalization and products with a constant
matrix keep the rule: see tests/export/surgery/test_rounding.py.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from elman_export.surgery import graphs
from elman_export.surgery.graphs import Builder

_SELU = (1.67326319217681884765625, 1.05070102214813232421875)
"""ONNX's defaults for alpha and gamma."""


def settle(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with other operators for those whose rounding depends on the batch.

    An operator without a known replacement stays.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    editable = graphs.read(inferred, typed=True)
    graphs.lift_constants(editable.graph)
    builder = Builder(editable)
    for node in list(editable.graph):
        rule = _RULES.get(node.op_type)
        if rule is None or node.domain:
            continue
        site = _Site(builder, node)
        kind = site.kind
        short = kind in _SHORT and node.op_type in _OF_ONE
        if short:  # torch too computes in float32 and rounds once
            site.x, site.kind = site.cast(site.x, ir.DataType.FLOAT), ir.DataType.FLOAT
        result = rule(site)
        if result is not None:
            if short:
                result = site.cast(result, kind)
            builder.take_over(node.outputs[0], builder.node("Identity", [result]))
            graphs.remove(node)
    editable.graph.sort()
    graphs.prune(editable.graph)
    return graphs.write(editable)


_Given = ir.Value | float | Sequence[int] | np.ndarray


class _Site:
    """A node to replace, with the type and shape of the node's first input."""

    def __init__(self, builder: Builder, node: ir.Node) -> None:
        x = node.inputs[0]
        assert x is not None
        self.node = node
        self.attributes = node.attributes
        self.x = x
        self.shape = _shape(x)
        self.kind = x.dtype or ir.DataType.FLOAT
        self._builder = builder

    def constant(self, index: int) -> np.ndarray | None:
        return graphs.constant(graphs.input_at(self.node, index))

    def add(self, operator: str, *given: _Given, **more: Any) -> ir.Value:
        """Adds a single-output node; returns the output.

        A float (in the type of `x`), a sequence of integers and an array become constants.
        """
        return self._builder.node(operator, [self._value(each) for each in given], **more)

    def cast(self, x: ir.Value, kind: ir.DataType) -> ir.Value:
        return self.add("Cast", x, to=int(kind))

    def _value(self, value: _Given) -> ir.Value:
        if isinstance(value, ir.Value):
            return value
        kind = self.kind.numpy() if isinstance(value, float) else None
        return self._builder.constant(np.asarray(value, kind), "elman/value")


def _shape(value: ir.Value) -> Sequence[int | None] | None:
    """The shape of a float32 tensor; None is an open length."""
    if value.dtype != ir.DataType.FLOAT or value.shape is None:
        return None
    return [axis if isinstance(axis, int) else None for axis in value.shape]


def _log(site: _Site) -> ir.Value | None:
    return _log_of(site, site.x)


def _log_of(site: _Site, x: ir.Value) -> ir.Value:
    # For a single number, the logarithm of the sum is the logarithm of the number.
    return site.add("ReduceLogSum", site.add("Unsqueeze", x, [-1]), [-1], keepdims=0)


def _softplus(site: _Site) -> ir.Value | None:
    small = site.add("Exp", site.add("Neg", site.add("Abs", site.x)))
    return site.add("Add", site.add("Relu", site.x), _log_of(site, site.add("Add", small, 1.0)))


def _mish(site: _Site) -> ir.Value | None:
    soft = _softplus(site)
    assert soft is not None
    return site.add("Mul", site.x, site.add("Tanh", soft))


def _elu(site: _Site) -> ir.Value | None:
    return _bent(site, site.attributes.get_float("alpha", 1.0), 1.0, 1.0)


def _celu(site: _Site) -> ir.Value | None:
    alpha = site.attributes.get_float("alpha", 1.0)
    return _bent(site, alpha, 1 / alpha, 1.0)


def _selu(site: _Site) -> ir.Value | None:
    alpha = site.attributes.get_float("alpha", _SELU[0])
    gamma = site.attributes.get_float("gamma", _SELU[1])
    return _bent(site, alpha, 1.0, gamma)


def _bent(site: _Site, alpha: float, slope: float, gamma: float) -> ir.Value:
    """`gamma * (x if x > 0 else alpha * (exp(slope * x) - 1))`."""
    below = site.add("Exp", site.add("Mul", site.add("Min", site.x, 0.0), slope))
    below = site.add("Mul", site.add("Sub", below, 1.0), alpha)
    return site.add("Mul", site.add("Add", site.add("Relu", site.x), below), gamma)


def _sin(site: _Site) -> ir.Value | None:
    half, squared = _half_tangent(site)
    return site.add("Div", site.add("Add", half, half), site.add("Add", squared, 1.0))


def _cos(site: _Site) -> ir.Value | None:
    _, squared = _half_tangent(site)
    one = site.add("Neg", site.add("Sub", squared, 1.0))
    return site.add("Div", one, site.add("Add", squared, 1.0))


def _half_tangent(site: _Site) -> tuple[ir.Value, ir.Value]:
    """tan(x/2) and the square of tan(x/2). Sine and cosine are fractions of both."""
    angle = site.add("Mul", site.x, 0.5)
    if site.kind == ir.DataType.DOUBLE:  # ONNX Runtime has no Tan for float64
        tangent = site.add("Tan", site.cast(angle, ir.DataType.FLOAT))
        half = site.cast(tangent, ir.DataType.DOUBLE)
    else:
        half = site.add("Tan", angle)
    return half, site.add("Mul", half, half)


def _sum(site: _Site) -> ir.Value | None:
    return _total(site, mean=False)


def _mean(site: _Site) -> ir.Value | None:
    return _total(site, mean=True)


def _total(site: _Site, *, mean: bool) -> ir.Value | None:
    """A sum or mean over features, as a product with ones."""
    axes, shape = site.constant(1), site.shape
    if axes is None or shape is None or not axes.size:
        return None
    over = sorted({int(axis) % len(shape) for axis in axes})
    kept = [axis for axis in range(len(shape)) if axis not in over]
    count = _product(shape, over)
    if count is None or not kept:
        return None
    x = site.x
    if over != list(range(len(kept), len(shape))):
        x = site.add("Transpose", x, perm=[*kept, *over])
    if len(over) > 1:
        x = site.add("Reshape", x, [*([0] * len(kept)), count])
    x = site.add("Squeeze", site.add("MatMul", x, np.ones((count, 1), np.float32)), [-1])
    if mean:
        x = site.add("Div", x, float(count))
    return site.add("Unsqueeze", x, over) if site.attributes.get_int("keepdims", 1) else x


def _instance_norm(site: _Site) -> ir.Value | None:
    """A LayerNormalization for each channel of each row."""
    scale, bias, shape = site.constant(1), site.constant(2), site.shape
    if scale is None or bias is None or shape is None:
        return None
    count = _product(shape, range(2, len(shape)))
    if count is None:
        return None
    x = site.add("Reshape", site.x, [0, 0, count])
    epsilon = site.attributes.get_float("epsilon", 1e-5)
    x = site.add("LayerNormalization", x, np.ones(count, np.float32), axis=-1, epsilon=epsilon)
    x = site.add("Add", site.add("Mul", x, scale[:, None]), bias[:, None])
    return site.add("Reshape", x, [0, 0, *(size or 0 for size in shape[2:])])


def _convolution(site: _Site) -> ir.Value | None:
    """A convolution of width 1, as a product with channels last."""
    weights, bias = site.constant(1), site.constant(2)
    if weights is None or weights[0, 0].size != 1 or site.attributes.get_int("group", 1) != 1:
        return None
    if set(site.attributes.get_ints("strides", (1,))) != {1} or any(
        site.attributes.get_ints("pads", ())
    ):
        return None
    if bias is None and graphs.input_at(site.node, 2) is not None:
        return None
    rank = weights.ndim
    x = site.add("Transpose", site.x, perm=[0, *range(2, rank), 1])
    x = site.add("MatMul", x, np.ascontiguousarray(weights.reshape(weights.shape[:2]).T))
    if bias is not None:
        x = site.add("Add", x, bias)
    return site.add("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)])


def _einsum(site: _Site) -> ir.Value | None:
    """The product of a tensor and a constant without a shared axis in the result, as a MatMul."""
    terms, _, result = site.attributes["equation"].as_string().replace(" ", "").partition("->")
    both = terms.split(",")
    if len(both) != 2 or not result or "." in terms:
        return None
    fixed = next((index for index in (1, 0) if site.constant(index) is not None), None)
    if fixed is None:
        return None
    weights, given = site.constant(fixed), site.node.inputs[1 - fixed]
    w, x = both[fixed], both[1 - fixed]
    kept = [axis for axis in x if axis in result]
    over = [axis for axis in x if axis not in result]
    new = [axis for axis in w if axis in result]
    alone = len(set(x)) < len(x) or len(set(w)) < len(w) or set(w) != {*over, *new}
    if weights is None or given is None or alone or set(kept) & set(new) or not kept:
        return None
    order = [w.index(axis) for axis in (*over, *new)]
    sizes = {axis: weights.shape[at] for at, axis in enumerate(w)}
    count = int(np.prod([sizes[axis] for axis in over], dtype=int))
    matrix = np.ascontiguousarray(weights.transpose(order).reshape(count, -1))
    turned = site.add("Transpose", given, perm=[x.index(axis) for axis in (*kept, *over)])
    front = [0] * len(kept)
    made = site.add("MatMul", site.add("Reshape", turned, [*front, count]), matrix)
    made = site.add("Reshape", made, [*front, *(sizes[axis] for axis in new)])
    return site.add("Transpose", made, perm=[[*kept, *new].index(axis) for axis in result])


_RULES: Mapping[str, Callable[[_Site], ir.Value | None]] = {
    "Log": _log,
    "Softplus": _softplus,
    "Mish": _mish,
    "Elu": _elu,
    "Celu": _celu,
    "Selu": _selu,
    "Sin": _sin,
    "Cos": _cos,
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "InstanceNormalization": _instance_norm,
    "Conv": _convolution,
    "Einsum": _einsum,
}


_OF_ONE = frozenset(("Log", "Softplus", "Mish", "Elu", "Celu", "Selu", "Sin", "Cos"))
"""Element-wise operators with a single input."""

_SHORT = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _product(shape: Sequence[int | None], axes: Sequence[int]) -> int | None:
    """The number of values along the axes; None if an axis has an open length."""
    count = 1
    for axis in axes:
        size = shape[axis]
        if size is None:
            return None
        count *= size
    return count
