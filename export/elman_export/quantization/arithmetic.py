"""The int8 arithmetic of a quantized graph: codes of activations, and products with int8 weights.

A tensor's *codes* are the values in steps of 1/127 as uint8, with 128 for 0. The step is the same
for every row, so a row's result does not depend on the rows beside it. Rows with values beyond -1
and 1 are first divided by their own largest absolute value. Sums of products are integers, so the
order of addition does not matter.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from elman_export.quantization.weights import quantize_columns
from elman_export.surgery.graphs import Builder

_STEP = np.float32(1 / 127)
_ZERO = np.uint8(128)
_SMALLEST = np.float32(1e-30)
"""The lower limit for a row's largest absolute value: a row of zeros stays zeros."""

RUNTIME = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Codes, with an optional factor for each row."""

    codes: ir.Value
    """uint8 `[..., n]`."""
    scale: ir.Value | None = None
    """float32 `[..., 1]`."""


def codes(values: np.ndarray) -> np.ndarray:
    """The codes of values between -1 and 1, equal to the codes from `Arithmetic.encode`."""
    found: np.ndarray = (np.rint(values * 127) + 128).astype(np.uint8)
    return found


class Arithmetic:
    """Adds int8 arithmetic to a model. `nodes` is the place of new nodes: the main graph, or the
    body of a Scan. Constants go to the main graph."""

    def __init__(self, builder: Builder, opset: int) -> None:
        self._builder = builder
        self._opset = opset
        self._constants: dict[str, ir.Value] = {}

    def encode(self, nodes: Builder, values: ir.Value) -> Encoded:
        """Codes of values between -1 and 1. Values beyond count as -1 or 1."""
        step, zero = self.shared("step", _STEP), self.shared("zero", _ZERO)
        return Encoded(nodes.node("QuantizeLinear", [values, step, zero]))

    def encode_rows(self, nodes: Builder, values: ir.Value) -> Encoded:
        """Codes of any values; a row (the last axis) is divided by its largest absolute value."""
        size = nodes.node("Abs", [values])
        if self._opset < 18:
            largest = nodes.node("ReduceMax", [size], axes=[-1], keepdims=1)
        else:
            axis = self.shared("last", np.array([-1]))
            largest = nodes.node("ReduceMax", [size, axis], keepdims=1)
        scale = nodes.node("Max", [largest, self.shared("smallest", _SMALLEST)])
        return Encoded(self.encode(nodes, nodes.node("Div", [values, scale])).codes, scale)

    def multiply(
        self,
        nodes: Builder,
        encoded: Encoded,
        matrix: np.ndarray,
        bias: np.ndarray | None = None,
    ) -> ir.Value:
        """`encoded @ matrix + bias`, float32. The matrix, `[n, m]`, is stored as int8."""
        weights = quantize_columns(matrix)
        given: list[ir.Value | None] = [
            encoded.codes,
            self._builder.constant(weights.values, "elman/weights"),
            self.shared("step", _STEP),
            self._builder.constant(weights.scales, "elman/scales"),
            self.shared("zero", _ZERO),
        ]
        if encoded.scale is None and bias is not None:
            given += [None, self._bias(bias)]
        product = nodes.node("MatMulIntegerToFloat", given, domain=RUNTIME)
        if encoded.scale is None:
            return product
        product = nodes.node("Mul", [product, encoded.scale])
        return product if bias is None else nodes.node("Add", [product, self._bias(bias)])

    def split(self, values: ir.Value, count: int) -> list[ir.Value]:
        """Splits the last axis into `count` equal parts, in the main graph."""
        if count == 1:
            return [values]
        attributes = {"axis": -1} | ({"num_outputs": count} if self._opset >= 18 else {})
        name = self._builder.fresh("elman/Split")
        node = ir.node("Split", [values], attributes, num_outputs=count, name=name)
        for part in node.outputs:
            part.name = self._builder.fresh("elman/part")
        self._builder.graph.append(node)
        return list(node.outputs)

    def _bias(self, bias: np.ndarray) -> ir.Value:
        return self._builder.constant(bias.astype(np.float32), "elman/bias")

    def constant(self, value: np.ndarray | np.generic) -> ir.Value:
        return self._builder.constant(value, "elman/constant")

    def shared(self, name: str, value: np.ndarray | np.generic) -> ir.Value:
        """A constant stored in the model once, by name."""
        if name not in self._constants:
            self._constants[name] = self._builder.constant(value, f"elman/{name}")
        return self._constants[name]
