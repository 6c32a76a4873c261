"""The int8 arithmetic of a quantized graph: codes of activations, and products with int8 weights.

A tensor's *codes* are the values in steps of 1/127 as uint8, with 128 for 0. The step is the same
for every row, so a row's result does not depend on the rows beside it. Rows with values beyond -1
and 1 are first divided by their own largest absolute value. Sums of products are integers, so the
order of addition does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from onnx import helper

from elman_export.quantization.weights import quantize_columns
from elman_export.surgery.editor import Editor

_STEP = np.float32(1 / 127)
_ZERO = np.uint8(128)
_SMALLEST = np.float32(1e-30)
"""The lower limit for a row's largest absolute value: a row of zeros stays zeros."""

RUNTIME = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


class Nodes(Protocol):
    """The place for new nodes: a graph, or the body of a Scan."""

    def node(
        self, operator: str, given: Sequence[str], output: str = "", **attributes: Any
    ) -> str: ...


class Body:
    """The nodes of a new subgraph."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self.nodes: list[Any] = []

    def node(self, operator: str, given: Sequence[str], output: str = "", **attributes: Any) -> str:
        made = output or self._editor.fresh(f"elman/{operator}")
        self.nodes.append(helper.make_node(operator, given, [made], **attributes))
        return made


@dataclass(frozen=True, slots=True)
class Encoded:
    """Codes, with an optional factor for each row."""

    codes: str
    """uint8 `[..., n]`."""
    scale: str | None = None
    """float32 `[..., 1]`."""


def codes(values: np.ndarray) -> np.ndarray:
    """The codes of values between -1 and 1, equal to the codes from `Arithmetic.encode`."""
    found: np.ndarray = (np.rint(values * 127) + 128).astype(np.uint8)
    return found


class Arithmetic:
    """Adds int8 arithmetic to a model. Constants go to the main graph."""

    def __init__(self, editor: Editor, opset: int) -> None:
        self._editor = editor
        self._opset = opset
        self._constants: dict[str, str] = {}

    def encode(self, nodes: Nodes, values: str) -> Encoded:
        """Codes of values between -1 and 1. Values beyond count as -1 or 1."""
        step, zero = self.shared("step", _STEP), self.shared("zero", _ZERO)
        return Encoded(nodes.node("QuantizeLinear", [values, step, zero]))

    def encode_rows(self, nodes: Nodes, values: str) -> Encoded:
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
        nodes: Nodes,
        encoded: Encoded,
        matrix: np.ndarray,
        bias: np.ndarray | None = None,
        output: str = "",
    ) -> str:
        """`encoded @ matrix + bias`, float32. The matrix, `[n, m]`, is stored as int8."""
        weights = quantize_columns(matrix)
        given = [
            encoded.codes,
            self._editor.constant(weights.values, "elman/weights"),
            self.shared("step", _STEP),
            self._editor.constant(weights.scales, "elman/scales"),
            self.shared("zero", _ZERO),
        ]
        if encoded.scale is None:
            if bias is not None:
                given += ["", self._bias(bias)]
            return nodes.node("MatMulIntegerToFloat", given, output, domain=RUNTIME)
        product = nodes.node("MatMulIntegerToFloat", given, domain=RUNTIME)
        if bias is None:
            return nodes.node("Mul", [product, encoded.scale], output)
        product = nodes.node("Mul", [product, encoded.scale])
        return nodes.node("Add", [product, self._bias(bias)], output)

    def split(self, values: str, count: int) -> list[str]:
        """Splits the last axis into `count` equal parts, in the main graph."""
        if count == 1:
            return [values]
        parts = [self._editor.fresh("elman/part") for _ in range(count)]
        name = self._editor.fresh("elman/Split")
        node = helper.make_node("Split", [values], parts, name=name, axis=-1)
        if self._opset >= 18:
            node.attribute.append(helper.make_attribute("num_outputs", count))
        self._editor.graph.node.append(node)
        return parts

    def _bias(self, bias: np.ndarray) -> str:
        return self._editor.constant(bias.astype(np.float32), "elman/bias")

    def constant(self, value: np.ndarray | np.generic) -> str:
        return self._editor.constant(value, "elman/constant")

    def shared(self, name: str, value: np.ndarray | np.generic) -> str:
        """A constant stored in the model once, by name."""
        if name not in self._constants:
            self._constants[name] = self._editor.constant(value, f"elman/{name}")
        return self._constants[name]
