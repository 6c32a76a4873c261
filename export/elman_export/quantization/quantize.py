"""`quantize`: a step model with int8 weights and an independent answer for each row."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir

from elman_export.errors import UnsupportedGraph
from elman_export.original import functions
from elman_export.quantization import operator, products, turns
from elman_export.quantization.arithmetic import RUNTIME, Arithmetic
from elman_export.quantization.bounds import bounded_states, scan_bounds, scans, source
from elman_export.quantization.carried import carried, carry_codes
from elman_export.quantization.codes import Codebook
from elman_export.quantization.layer import Layer
from elman_export.quantization.operator import Kept
from elman_export.quantization.scan import put_scan
from elman_export.surgery import graphs
from elman_export.surgery.graphs import Builder, describe, places
from elman_server.model.spec import ModelSpec

_OLDEST_OPSET = 11

Tell = Callable[[str], None]


def quantize(
    model: onnx.ModelProto, spec: ModelSpec, *, tell: Tell = lambda line: None
) -> tuple[onnx.ModelProto, ModelSpec]:
    """A smaller, faster step model that computes nearly the same, and the model's spec.

    Recurrent operators of the main graph become Scans over steps with int8 weights. Large products
    with constant matrices become int8 products. Each scale is a constant or comes from a single
    row, for the same row, so results are bit-identical for every batch and chunk.

    The new model has a time axis if the old model has a time axis. If a recurrent operator was
    changed, the new model takes no lengths: all rows of a step then have equally many elements.
    Hidden states of LSTMs and RNNs become bytes where no other node reads them. Otherwise inputs,
    outputs and states stay the same. `model` is not changed.

    Calls `tell` with a line for each operator that could have become int8 and did not.

    Raises `UnsupportedGraph` if no operator can become int8.
    """
    return _Quantization(model, spec, tell).run()


class _Quantization:
    def __init__(self, model: onnx.ModelProto, spec: ModelSpec, tell: Tell) -> None:
        self._model = graphs.read(functions.inline(model) if model.functions else model)
        self._graph = self._model.graph
        graphs.lift_constants(self._graph)
        self._spec = spec
        self._tell = tell
        opset = self._graph.opset_imports.get("", 0)
        if opset < _OLDEST_OPSET:
            raise UnsupportedGraph(
                f"the graph is of operator set {opset}; int8 takes {_OLDEST_OPSET} or newer"
            )
        self._builder = Builder(self._model)
        self._arithmetic = Arithmetic(self._builder, opset)

    def run(self) -> tuple[onnx.ModelProto, ModelSpec]:
        layers = self._layers()
        turned, known = self._turns()
        multiplied = self._products(layers, known)
        if not (layers or turned or multiplied):
            raise UnsupportedGraph("the graph has nothing that can become int8")
        self._graph.sort()
        graphs.prune(self._graph)
        for layer in layers:
            if layer.node.graph is not None:
                put_scan(self._builder, self._arithmetic, layer)
        self._graph.opset_imports.setdefault(RUNTIME, 1)
        spec = self._respecify(layers)
        self._graph.sort()
        graphs.prune(self._graph)
        return graphs.write(self._model), spec

    def _layers(self) -> list[Layer]:
        """The recurrent operators that become Scans."""
        cells: list[tuple[ir.Node, operator.Cell]] = []
        for place in places(self._graph):
            node = place.node
            if node.op_type not in operator.KINDS:
                continue
            try:
                if place.branches:
                    raise Kept(f"it stands inside {describe(place.branches[0].node)}")
                lengths = graphs.input_at(node, 4)
                if lengths is not None and lengths.name != self._spec.lengths:
                    raise Kept("its lengths are not those of the step")
                cells.append((node, operator.read(node)))
            except Kept as reason:
                self._tell(f"{describe(node)} stays float32: {reason}")
        states = {
            given: [value for value in node.outputs[:2] if value.name]
            for node, cell in cells
            if cell.bounded and (given := graphs.input_at(node, 5)) is not None
        }
        self._bounded_states = bounded_states(self._graph, self._spec, states)
        return [self._layer(node, cell) for node, cell in cells]

    def _layer(self, node: ir.Node, cell: operator.Cell) -> Layer:
        bounded = cell.bounded and self._is_bounded_state(node.inputs[5])
        state = carried(node, self._spec.states) if bounded else None
        return Layer(cell=cell, node=node, bounded=bounded, carried=state)

    def _turns(self) -> tuple[int, set[ir.Value]]:
        """Makes products inside Scans int8; returns their number and the Scans' bounded outputs."""
        count, known = 0, set[ir.Value]()
        for node, body in scans(self._graph):
            begins = {value for value in node.inputs if self._is_bounded_state(value)}
            bounds = scan_bounds(node, body, begins)
            count += turns.quantize_turns(
                self._builder, self._arithmetic, node, body, bounds, self._tell
            )
            known |= bounds.outputs
        return count, known

    def _products(self, layers: list[Layer], known: set[ir.Value]) -> int:
        """Makes layers read codes and products int8, in the main graph; returns the number of
        products.
        """
        bounded = {
            value: layer.node
            for layer in layers
            if layer.bounded
            for value in layer.node.outputs
            if value.name
        }
        codebook = Codebook(self._builder, self._arithmetic, bounded, known)
        # Layers decide on their own new products, so list the old products first.
        nodes = [node for node in self._graph if node.op_type in products.KINDS]
        for layer in layers:
            layer.read_codes(self._builder, self._arithmetic, codebook, self._tell)
        found = products.Products(self._builder, self._arithmetic, codebook)
        count = 0
        for node in nodes:
            try:
                found.quantize(node)
                count += 1
            except Kept as reason:
                self._tell(f"{describe(node)} stays float32: {reason}")
        return count

    def _respecify(self, layers: list[Layer]) -> ModelSpec:
        coded = {
            layer.carried.name: carry_codes(self._graph, layer.carried)
            for layer in layers
            if layer.carried is not None
        }
        states = tuple(coded.get(state.name, state) for state in self._spec.states)
        if layers and self._spec.lengths is not None:
            self._drop_lengths(self._spec.lengths)
        return replace(self._spec, states=states, lengths=None if layers else self._spec.lengths)

    def _drop_lengths(self, name: str) -> None:
        """Computes lengths from the shape of the elements, for nodes that still read lengths."""
        builder = self._builder
        lengths = graphs.input_named(self._graph, name)
        self._graph.inputs.remove(lengths)
        if lengths.uses():
            shape = builder.node("Shape", [graphs.input_named(self._graph, self._spec.input.name)])
            rows, steps = (
                builder.node("Gather", [shape, builder.constant(np.array(index))])
                for index in ([0], 1)
            )
            steps = builder.node("Cast", [steps], to=int(ir.DataType.INT32))
            graphs.replace(lengths, builder.node("Expand", [steps, rows]))

    def _is_bounded_state(self, value: ir.Value | None) -> bool:
        return value is not None and source(value) in self._bounded_states
