"""Finds tensors of a graph that can be stored as codes, and adds the codes (see `arithmetic`).

A tensor between -1 and 1 has codes directly. An embedding has codes after each column is divided by
the column's largest entry, so the table itself can be stored as codes. Operators that only move
values (Transpose, Squeeze, ...) are repeated on codes, which are four times smaller.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from elman_export.quantization.arithmetic import Arithmetic, Encoded, codes
from elman_export.quantization.bounds import MOVES, bounded, makers
from elman_export.surgery.editor import Editor, attributes, outputs


@dataclass(frozen=True, slots=True)
class Codes:
    """A tensor in codes."""

    name: str
    gain: np.ndarray | None = None
    """`[n]`: factors of the last axis, from codes to the tensor's values; None for 1."""
    stacked: str = ""
    """Codes as `[time, 1, batch, n]`, if a layer returns such a shape."""


class Codebook:
    """Finds and adds the codes of a graph's tensors."""

    def __init__(
        self,
        editor: Editor,
        arithmetic: Arithmetic,
        constants: Mapping[str, np.ndarray],
        layers: Mapping[str, onnx.NodeProto],
        known: Collection[str],
    ) -> None:
        """`layers` maps output names to bounded recurrent operators on their way to int8.

        Each layer returns codes of its first output as a fourth output. `known` are other bounded
        tensors.
        """
        self._editor = editor
        self._arithmetic = arithmetic
        self._layers = layers
        self._known = {
            *known,
            *(name for name, node in layers.items() if name in node.output[:2]),
        }
        self._constants = constants
        self._makers = makers(editor.graph)
        self._found: dict[str, Codes | None] = {}
        self._scaled: dict[str, Encoded] = {}

    def find(self, name: str) -> Codes | None:
        """The codes of a tensor; None if the values may be of any size."""
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def scaled(self, name: str) -> Encoded:
        """The codes of any tensor; each row is divided by its largest absolute value."""
        if name not in self._scaled:
            self._scaled[name] = self._arithmetic.encode_rows(self._editor, name)
        return self._scaled[name]

    def _find(self, name: str) -> Codes | None:
        node = self._makers.get(name)
        if node is None:
            return None
        if node.op_type in MOVES:
            return self._moved(node)
        if node.op_type == "Gather":
            return self._embedded(node)
        layer = self._layers.get(name)
        if layer is not None and name == outputs(layer, 0):
            name = _coded_output(self._editor, layer)
            return Codes(name, stacked=name)
        if bounded(name, self._makers, self._known.__contains__):
            return Codes(self._arithmetic.encode(self._editor, name).codes)
        return None

    def _moved(self, node: onnx.NodeProto) -> Codes | None:
        source = self.find(node.input[0])
        if source is None or (source.gain is not None and not self._keeps_last_axis(node)):
            return None
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = copy.output[0] = self._editor.fresh(f"{node.output[0]}/codes")
        copy.input[0] = source.name
        self._editor.graph.node.append(copy)
        behind = node.op_type == "Squeeze" and list(self._axes(node)) == [1]
        stacked = source.stacked if behind and source.stacked == source.name else ""
        return Codes(copy.output[0], source.gain, stacked)

    def _keeps_last_axis(self, node: onnx.NodeProto) -> bool:
        """Whether an operator certainly keeps the last axis of `[..., n]`."""
        match node.op_type:
            case "Identity":
                return True
            case "Transpose":
                perm = attributes(node).get("perm", [])
                return bool(perm) and perm[-1] == len(perm) - 1
            case "Squeeze" | "Unsqueeze":
                # The tensor is [batch, time, n] or larger; an axis in front is added or removed.
                return set(self._axes(node)) <= {0, 1} and bool(self._axes(node))
        return False

    def _axes(self, node: onnx.NodeProto) -> Iterable[int]:
        if len(node.input) > 1:
            return [int(axis) for axis in self._constants.get(node.input[1], np.array([-1]))]
        return [int(axis) for axis in attributes(node).get("axes", [])]

    def _embedded(self, node: onnx.NodeProto) -> Codes | None:
        table = self._constants.get(node.input[0])
        if (
            table is None
            or table.ndim != 2
            or table.dtype != np.float32
            or not np.isfinite(table).all()
            or attributes(node).get("axis", 0) != 0
        ):
            return None
        gain = np.abs(table).max(0)
        gain[gain == 0] = 1
        constant = self._editor.constant(codes(table / gain), f"{node.input[0]}/codes")
        return Codes(self._editor.node("Gather", [constant, node.input[1]], axis=0), gain)


def _coded_output(editor: Editor, layer: onnx.NodeProto) -> str:
    while len(layer.output) < 4:
        layer.output.append("")
    if not layer.output[3]:
        layer.output[3] = editor.fresh(f"{layer.output[0]}/codes")
    return str(layer.output[3])
