"""The int8 arithmetic that a graph is given: codes of activations, and products with int8 weights.

A tensor's *codes* are its values in steps of 1/127 as uint8, with 128 for 0. The step is the same
for every row, so what a row comes to does not depend on the rows beside it; values beyond -1 and 1
are first divided by the largest of their own row. Sums of products are integers, which add up to
the same in any order.
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
"""What a row's largest value counts as at least: a row of zeros stays zeros."""

RUNTIME = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


class Nodes(Protocol):
    """Where new nodes go: a graph, or the body of a Scan."""

    def node(
        self, operator: str, given: Sequence[str], output: str = "", **attributes: Any
    ) -> str: ...


class Body:
    """The nodes of a subgraph that is being written."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self.nodes: list[Any] = []

    def node(self, operator: str, given: Sequence[str], output: str = "", **attributes: Any) -> str:
        made = output or self._editor.fresh(f"elman/{operator}")
        self.nodes.append(helper.make_node(operator, given, [made], **attributes))
        return made


@dataclass(frozen=True, slots=True)
class Encoded:
    """Codes, and what they are multiplied by: a number for each row, or nothing."""

    codes: str
    """uint8 `[..., n]`."""
    scale: str | None = None
    """float32 `[..., 1]`."""


def codes(values: np.ndarray) -> np.ndarray:
    """The codes of values between -1 and 1, as `Arithmetic.encode` makes them."""
    found: np.ndarray = (np.rint(values * 127) + 128).astype(np.uint8)
    return found


class Arithmetic:
    """Adds int8 arithmetic to a model; its constants go to the main graph."""

    def __init__(self, editor: Editor, opset: int) -> None:
        self._editor = editor
        self._opset = opset
        self._constants: dict[str, str] = {}

    def encode(self, nodes: Nodes, values: str) -> Encoded:
        """Codes of values between -1 and 1; what lies beyond counts as -1 or 1."""
        step, zero = self.shared("step", _STEP), self.shared("zero", _ZERO)
        return Encoded(nodes.node("QuantizeLinear", [values, step, zero]))

    def encode_rows(self, nodes: Nodes, values: str) -> Encoded:
        """Codes of any values, each row (the last axis) divided by its largest one."""
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
        """`encoded @ matrix + bias`, float32; the matrix `[n, m]` is kept as int8."""
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
        """So many equal parts of the last axis, in the main graph."""
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
        """A constant that the model has once, under its name."""
        if name not in self._constants:
            self._constants[name] = self._editor.constant(value, f"elman/{name}")
        return self._constants[name]
