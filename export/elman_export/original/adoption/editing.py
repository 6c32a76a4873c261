"""Adding of nodes to a graph, before the inputs and behind the outputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from elman_export.surgery import onnxnodes
from elman_export.surgery.onnxnodes import Names


class Editing:
    """Changes a model in place. `finish` inserts the new nodes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self._opset = next(
            (each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0
        )
        if not self._opset:
            self._opset = 17
            model.opset_import.append(helper.make_opsetid("", self._opset))
        self._before: list[onnx.NodeProto] = []
        self._behind: list[onnx.NodeProto] = []
        self._names = Names(model)
        self.fresh = self._names.fresh

    def constant(self, name: str, value: np.ndarray) -> None:
        self.graph.initializer.append(numpy_helper.from_array(value, name))

    def rename(self, old: str, new: str) -> None:
        """Renames a tensor in the graph, in subgraphs and in the nodes behind the graph.

        Nodes before the graph read outer tensors and stay unchanged. A name means the same tensor
        in a graph and in its subgraphs.
        """
        for graph in onnxnodes.graphs(self.model):
            for node in graph.node:
                node.input[:] = [new if name == old else name for name in node.input]
                node.output[:] = [new if name == old else name for name in node.output]
            for value in (*graph.input, *graph.output):
                if value.name == old:
                    value.name = new
            for tensor in graph.initializer:
                if tensor.name == old:
                    tensor.name = new
        for node in self._behind:
            node.input[:] = [new if name == old else name for name in node.input]

    def before(self, operator: str, given: Sequence[str], output: str = "", **options: Any) -> str:
        """Adds a node before the graph's nodes. Returns the output's name."""
        return self._node(self._before, operator, given, output, options)

    def behind(self, operator: str, given: Sequence[str], output: str = "", **options: Any) -> str:
        return self._node(self._behind, operator, given, output, options)

    def _node(
        self,
        place: list[onnx.NodeProto],
        operator: str,
        given: Sequence[str],
        output: str,
        options: dict[str, Any],
    ) -> str:
        name = output or self.fresh(f"elman/{operator}")
        place.append(
            helper.make_node(operator, given, [name], self.fresh(f"{name}/node"), **options)
        )
        return name

    def squeezed(self, place: str, given: str, axes: Sequence[int]) -> str:
        return self._axes(place, "Squeeze", given, axes)

    def unsqueezed(self, place: str, given: str, axes: Sequence[int]) -> str:
        return self._axes(place, "Unsqueeze", given, axes)

    def _axes(self, place: str, operator: str, given: str, axes: Sequence[int]) -> str:
        node = self.before if place == "before" else self.behind
        if not axes:
            return given
        if self._opset < 13:
            return node(operator, [given], axes=list(axes))
        return node(operator, [given, self._numbers(axes)])

    def transposed(self, place: str, given: str, order: Sequence[int]) -> str:
        if list(order) == sorted(order):
            return given
        node = self.before if place == "before" else self.behind
        return node("Transpose", [given], perm=list(order))

    def sliced(self, given: str, axis: int, start: int, stop: int) -> str:
        """Slices a tensor before the graph's nodes."""
        if self._opset < 10:
            return self.before("Slice", [given], axes=[axis], starts=[start], ends=[stop])
        parts = [self._numbers([number]) for number in (start, stop, axis)]
        return self.before("Slice", [given, *parts])

    def _numbers(self, values: Sequence[int]) -> str:
        name = self.fresh("elman/numbers")
        self.constant(name, np.array(values, np.int64))
        return name

    def finish(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> None:
        graph = self.graph
        nodes = [*self._before, *(_copy(node) for node in graph.node), *self._behind]
        del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.input.extend(inputs)
        graph.output.extend(outputs)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    return onnx.NodeProto.FromString(node.SerializeToString())


def value_info(name: str, dtype: str, dims: Sequence[str | int | None]) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, list(dims))
