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
from onnx import helper, numpy_helper

from elman_export.surgery.editor import Editor, attributes, inputs

_SELU = (1.67326319217681884765625, 1.05070102214813232421875)
"""ONNX's defaults for alpha and gamma."""


def settle(model: onnx.ModelProto) -> None:
    """Replaces operators whose rounding depends on the batch, in place.

    An operator without a known replacement stays.
    """
    editor = Editor(model)
    editor.lift_constants()
    tensors = _tensors(model)
    shapes = _shapes(tensors)
    constants = {each.name: each for each in editor.graph.initializer}
    for node in list(editor.graph.node):
        rule = _RULES.get(node.op_type)
        if rule is None or node.domain not in ("", "ai.onnx"):
            continue
        site = _Site(editor, node, tensors, shapes, constants)
        kind = site.kind
        short = kind in _SHORT and node.op_type in _OF_ONE
        if short:  # torch too computes in float32 and rounds once
            site.x, site.kind = site.cast(site.x, onnx.TensorProto.FLOAT), onnx.TensorProto.FLOAT
        result = rule(site)
        if result is not None:
            if short:
                result = site.cast(result, kind)
            output = node.output[0]
            editor.graph.node.remove(node)
            editor.node("Identity", [result], output)
    editor.sort()
    editor.prune()


class _Site:
    """A node to replace, with the types, shapes and constants of its tensors."""

    def __init__(
        self,
        editor: Editor,
        node: onnx.NodeProto,
        tensors: Mapping[str, onnx.TypeProto.Tensor],
        shapes: Mapping[str, Sequence[int | None]],
        constants: Mapping[str, onnx.TensorProto],
    ) -> None:
        self.node = node
        self.attributes = attributes(node)
        self.x = node.input[0]
        self.shape = shapes.get(self.x)
        self.kind = tensors[self.x].elem_type if self.x in tensors else onnx.TensorProto.FLOAT
        self._editor = editor
        self._shapes = shapes
        self._constants = constants

    def constant(self, index: int) -> np.ndarray | None:
        found = self._constants.get(inputs(self.node, index))
        return None if found is None else numpy_helper.to_array(found)

    def rank(self, index: int) -> int | None:
        shape = self._shapes.get(inputs(self.node, index))
        return None if shape is None else len(shape)

    def add(
        self, operator: str, *given: str | float | Sequence[int] | np.ndarray, **more: Any
    ) -> str:
        """Adds a single-output node; returns the output's name.

        A float (in the type of `x`), a sequence of integers and an array become constants.
        """
        return self._editor.node(operator, [self._name(each) for each in given], **more)

    def cast(self, x: str, kind: int) -> str:
        return self.add("Cast", x, to=kind)

    def _name(self, value: str | float | Sequence[int] | np.ndarray) -> str:
        if isinstance(value, str):
            return value
        kind = helper.tensor_dtype_to_np_dtype(self.kind) if isinstance(value, float) else None
        return self._editor.constant(np.asarray(value, kind), "elman/value")


def _log(site: _Site) -> str | None:
    return _log_of(site, site.x)


def _log_of(site: _Site, x: str) -> str:
    # For a single number, the logarithm of the sum is the logarithm of the number.
    return site.add("ReduceLogSum", site.add("Unsqueeze", x, [-1]), [-1], keepdims=0)


def _softplus(site: _Site) -> str | None:
    small = site.add("Exp", site.add("Neg", site.add("Abs", site.x)))
    return site.add("Add", site.add("Relu", site.x), _log_of(site, site.add("Add", small, 1.0)))


def _mish(site: _Site) -> str | None:
    soft = _softplus(site)
    assert soft is not None
    return site.add("Mul", site.x, site.add("Tanh", soft))


def _elu(site: _Site) -> str | None:
    return _bent(site, float(site.attributes.get("alpha", 1.0)), 1.0, 1.0)


def _celu(site: _Site) -> str | None:
    alpha = float(site.attributes.get("alpha", 1.0))
    return _bent(site, alpha, 1 / alpha, 1.0)


def _selu(site: _Site) -> str | None:
    alpha = float(site.attributes.get("alpha", _SELU[0]))
    gamma = float(site.attributes.get("gamma", _SELU[1]))
    return _bent(site, alpha, 1.0, gamma)


def _bent(site: _Site, alpha: float, slope: float, gamma: float) -> str:
    """`gamma * (x if x > 0 else alpha * (exp(slope * x) - 1))`."""
    below = site.add("Exp", site.add("Mul", site.add("Min", site.x, 0.0), slope))
    below = site.add("Mul", site.add("Sub", below, 1.0), alpha)
    return site.add("Mul", site.add("Add", site.add("Relu", site.x), below), gamma)


def _sin(site: _Site) -> str | None:
    half, squared = _half_tangent(site)
    return site.add("Div", site.add("Add", half, half), site.add("Add", squared, 1.0))


def _cos(site: _Site) -> str | None:
    _, squared = _half_tangent(site)
    one = site.add("Neg", site.add("Sub", squared, 1.0))
    return site.add("Div", one, site.add("Add", squared, 1.0))


def _half_tangent(site: _Site) -> tuple[str, str]:
    """tan(x/2) and the square of tan(x/2). Sine and cosine are fractions of both."""
    angle = site.add("Mul", site.x, 0.5)
    if site.kind == onnx.TensorProto.DOUBLE:  # ONNX Runtime has no Tan for float64
        half = site.cast(
            site.add("Tan", site.cast(angle, onnx.TensorProto.FLOAT)), onnx.TensorProto.DOUBLE
        )
    else:
        half = site.add("Tan", angle)
    return half, site.add("Mul", half, half)


def _sum(site: _Site) -> str | None:
    return _total(site, mean=False)


def _mean(site: _Site) -> str | None:
    return _total(site, mean=True)


def _total(site: _Site, *, mean: bool) -> str | None:
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
    return site.add("Unsqueeze", x, over) if site.attributes.get("keepdims", 1) else x


def _instance_norm(site: _Site) -> str | None:
    """A LayerNormalization for each channel of each row."""
    scale, bias, shape = site.constant(1), site.constant(2), site.shape
    if scale is None or bias is None or shape is None:
        return None
    count = _product(shape, range(2, len(shape)))
    if count is None:
        return None
    x = site.add("Reshape", site.x, [0, 0, count])
    epsilon = site.attributes.get("epsilon", 1e-5)
    x = site.add("LayerNormalization", x, np.ones(count, np.float32), axis=-1, epsilon=epsilon)
    x = site.add("Add", site.add("Mul", x, scale[:, None]), bias[:, None])
    return site.add("Reshape", x, [0, 0, *(size or 0 for size in shape[2:])])


def _convolution(site: _Site) -> str | None:
    """A convolution of width 1, as a product with channels last."""
    weights, bias = site.constant(1), site.constant(2)
    if weights is None or weights[0, 0].size != 1 or site.attributes.get("group", 1) != 1:
        return None
    if set(site.attributes.get("strides", [1])) != {1} or any(site.attributes.get("pads", [0])):
        return None
    if len(site.node.input) > 2 and site.node.input[2] and bias is None:
        return None
    rank = weights.ndim
    x = site.add("Transpose", site.x, perm=[0, *range(2, rank), 1])
    x = site.add("MatMul", x, np.ascontiguousarray(weights.reshape(weights.shape[:2]).T))
    if bias is not None:
        x = site.add("Add", x, bias)
    return site.add("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)])


def _einsum(site: _Site) -> str | None:
    """The product of a tensor and a constant without a shared axis in the result, as a MatMul."""
    terms, _, result = str(site.attributes["equation"]).replace(" ", "").partition("->")
    both = terms.split(",")
    if len(both) != 2 or not result or "." in terms:
        return None
    fixed = next((index for index in (1, 0) if site.constant(index) is not None), None)
    if fixed is None:
        return None
    weights, given = site.constant(fixed), site.node.input[1 - fixed]
    w, x = both[fixed], both[1 - fixed]
    kept = [axis for axis in x if axis in result]
    over = [axis for axis in x if axis not in result]
    new = [axis for axis in w if axis in result]
    alone = len(set(x)) < len(x) or len(set(w)) < len(w) or set(w) != {*over, *new}
    if weights is None or alone or set(kept) & set(new) or not kept:
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


_RULES: Mapping[str, Callable[[_Site], str | None]] = {
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

_SHORT = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def _product(shape: Sequence[int | None], axes: Sequence[int]) -> int | None:
    """The number of values along the axes; None if an axis has an open length."""
    count = 1
    for axis in axes:
        size = shape[axis]
        if size is None:
            return None
        count *= size
    return count


def _tensors(model: onnx.ModelProto) -> Mapping[str, onnx.TypeProto.Tensor]:
    """Tensor types by name, with the shapes found by shape inference."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: value.type.tensor_type
        for value in (*graph.value_info, *graph.input, *graph.output)
    }


def _shapes(
    tensors: Mapping[str, onnx.TypeProto.Tensor],
) -> Mapping[str, Sequence[int | None]]:
    """Shapes of float32 tensors by name; None is an open length."""
    return {
        name: [axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim]
        for name, tensor in tensors.items()
        if tensor.elem_type == onnx.TensorProto.FLOAT and tensor.HasField("shape")
    }
