"""Finds tensors of a graph that can be stored as codes, and adds the codes (see `arithmetic`).

A tensor between -1 and 1 has codes directly. An embedding has codes after each column is divided by
the column's largest entry, so the table itself can be stored as codes. Operators that only move
values (Transpose, Squeeze, ...) are repeated on codes, which are four times smaller.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from elman_export.quantization.arithmetic import Arithmetic, Encoded, codes
from elman_export.quantization.bounds import MOVES, bounded
from elman_export.surgery import graphs
from elman_export.surgery.graphs import Builder, constant


@dataclass(frozen=True, slots=True)
class Codes:
    """A tensor in codes."""

    value: ir.Value
    gain: np.ndarray | None = None
    """`[n]`: factors of the last axis, from codes to the tensor's values; None for 1."""
    stacked: ir.Value | None = None
    """Codes as `[time, 1, batch, n]`, if a layer returns such a shape."""


class Codebook:
    """Finds and adds the codes of a graph's tensors."""

    def __init__(
        self,
        builder: Builder,
        arithmetic: Arithmetic,
        layers: Mapping[ir.Value, ir.Node],
        known: Collection[ir.Value],
    ) -> None:
        """`layers` maps outputs to bounded recurrent operators on their way to int8.

        Each layer returns codes of its first output as a fourth output. `known` are other bounded
        tensors.
        """
        self._builder = builder
        self._arithmetic = arithmetic
        self._layers = layers
        self._known = {
            *known,
            *(value for value, node in layers.items() if value in node.outputs[:2]),
        }
        self._found: dict[ir.Value, Codes | None] = {}
        self._scaled: dict[ir.Value, Encoded] = {}

    def find(self, value: ir.Value) -> Codes | None:
        """The codes of a tensor; None if the values may be of any size."""
        if value not in self._found:
            self._found[value] = self._find(value)
        return self._found[value]

    def scaled(self, value: ir.Value) -> Encoded:
        """The codes of any tensor; each row is divided by its largest absolute value."""
        if value not in self._scaled:
            self._scaled[value] = self._arithmetic.encode_rows(self._builder, value)
        return self._scaled[value]

    def _find(self, value: ir.Value) -> Codes | None:
        node = value.producer()
        if node is None:
            return None
        if node.op_type in MOVES:
            return self._moved(node)
        if node.op_type == "Gather":
            return self._embedded(node)
        layer = self._layers.get(value)
        if layer is not None and value is layer.outputs[0]:
            coded = graphs.output_at(layer, 3) or graphs.add_output(
                layer, 3, self._builder.fresh(f"{value.name}/codes")
            )
            return Codes(coded, stacked=coded)
        if bounded(value, self._known.__contains__):
            return Codes(self._arithmetic.encode(self._builder, value).codes)
        return None

    def _moved(self, node: ir.Node) -> Codes | None:
        given = node.inputs[0]
        source = None if given is None else self.find(given)
        if source is None or (source.gain is not None and not self._keeps_last_axis(node)):
            return None
        made = self._builder.node(
            node.op_type,
            [source.value, *node.inputs[1:]],
            self._builder.fresh(f"{node.outputs[0].name}/codes"),
            domain=node.domain,
            **node.attributes,
        )
        behind = node.op_type == "Squeeze" and list(self._axes(node)) == [1]
        stacked = source.stacked if behind and source.stacked is source.value else None
        return Codes(made, source.gain, stacked)

    def _keeps_last_axis(self, node: ir.Node) -> bool:
        """Whether an operator certainly keeps the last axis of `[..., n]`."""
        match node.op_type:
            case "Identity":
                return True
            case "Transpose":
                perm = node.attributes.get_ints("perm", ())
                return bool(perm) and perm[-1] == len(perm) - 1
            case "Squeeze" | "Unsqueeze":
                # The tensor is [batch, time, n] or larger; an axis in front is added or removed.
                return set(self._axes(node)) <= {0, 1} and bool(self._axes(node))
        return False

    def _axes(self, node: ir.Node) -> Iterable[int]:
        if len(node.inputs) > 1:
            axes = constant(node.inputs[1])
            return [-1] if axes is None else [int(axis) for axis in axes]
        return node.attributes.get_ints("axes", ())

    def _embedded(self, node: ir.Node) -> Codes | None:
        source = node.inputs[0]
        table = constant(source)
        if (
            source is None
            or table is None
            or table.ndim != 2
            or table.dtype != np.float32
            or not np.isfinite(table).all()
            or node.attributes.get_int("axis", 0) != 0
        ):
            return None
        gain = np.abs(table).max(0)
        gain[gain == 0] = 1
        coded = self._builder.constant(codes(table / gain), f"{source.name}/codes")
        return Codes(self._builder.node("Gather", [coded, node.inputs[1]], axis=0), gain)
