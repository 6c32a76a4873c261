"""Operators that only move values, as the model's operator set has them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from elman_export.surgery.graphs import Builder


class Editing:
    """Adds nodes to a model. Rearrangements that change nothing add none."""

    def __init__(self, model: ir.Model) -> None:
        self._opset = model.graph.opset_imports.setdefault("", 17)
        self._builder = Builder(model)
        self.fresh = self._builder.fresh

    def node(
        self, operator: str, given: Sequence[ir.Value], output: str = "", **attributes: Any
    ) -> ir.Value:
        return self._builder.node(operator, given, output, **attributes)

    def squeezed(self, given: ir.Value, axes: Sequence[int]) -> ir.Value:
        return self._axes("Squeeze", given, axes)

    def unsqueezed(self, given: ir.Value, axes: Sequence[int]) -> ir.Value:
        return self._axes("Unsqueeze", given, axes)

    def _axes(self, operator: str, given: ir.Value, axes: Sequence[int]) -> ir.Value:
        if not axes:
            return given
        if self._opset < 13:
            return self.node(operator, [given], axes=list(axes))
        return self.node(operator, [given, self._numbers(axes)])

    def transposed(self, given: ir.Value, order: Sequence[int]) -> ir.Value:
        if list(order) == sorted(order):
            return given
        return self.node("Transpose", [given], perm=list(order))

    def sliced(self, given: ir.Value, axis: int, start: int, stop: int) -> ir.Value:
        if self._opset < 10:
            return self.node("Slice", [given], axes=[axis], starts=[start], ends=[stop])
        return self.node("Slice", [given, *(self._numbers([at]) for at in (start, stop, axis))])

    def _numbers(self, values: Sequence[int]) -> ir.Value:
        return self._builder.constant(np.array(values, np.int64), "elman/numbers")
