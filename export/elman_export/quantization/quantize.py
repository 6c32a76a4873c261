"""`quantize`: a step model with int8 weights and an independent answer for each row."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto

from elman_export.errors import UnsupportedGraph
from elman_export.original import functions
from elman_export.quantization import operator, products, turns
from elman_export.quantization.arithmetic import RUNTIME, Arithmetic
from elman_export.quantization.bounds import bounded_states, makers, scan_bounds, scans, source
from elman_export.quantization.carried import carried, carry_codes
from elman_export.quantization.codes import Codebook
from elman_export.quantization.layer import Layer
from elman_export.quantization.operator import Kept
from elman_export.quantization.scan import scan
from elman_export.surgery.editor import Editor, inputs, places
from elman_export.surgery.onnxnodes import describe
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
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        if self._model.functions:
            self._model = functions.inline(self._model)
        self._spec = spec
        self._tell = tell
        opset = _opset(self._model)
        if opset < _OLDEST_OPSET:
            raise UnsupportedGraph(
                f"the graph is of operator set {opset}; int8 takes {_OLDEST_OPSET} or newer"
            )
        self._editor = Editor(self._model)
        self._editor.lift_constants()
        self._arithmetic = Arithmetic(self._editor, opset)
        self._constants = self._editor.constants()
        self._makers = makers(self._model.graph)

    def run(self) -> tuple[onnx.ModelProto, ModelSpec]:
        layers = self._layers()
        turned, known = self._turns()
        multiplied = self._products(layers, known)
        if not (layers or turned or multiplied):
            raise UnsupportedGraph("the graph has nothing that can become int8")
        self._editor.sort()
        self._editor.prune()
        self._write(layers)
        if all(each.domain != RUNTIME for each in self._model.opset_import):
            self._model.opset_import.append(onnx.helper.make_opsetid(RUNTIME, 1))
        spec = self._respecify(layers)
        self._editor.sort()
        self._editor.prune()
        return self._model, spec

    def _layers(self) -> list[Layer]:
        """The recurrent operators that become Scans."""
        cells: list[tuple[onnx.NodeProto, operator.Cell]] = []
        for place in places(self._model.graph):
            node = place.node
            if node.op_type not in operator.KINDS:
                continue
            try:
                if place.branches:
                    raise Kept(f"it stands inside {describe(place.branches[0].node)}")
                if inputs(node, 4) not in ("", self._spec.lengths):
                    raise Kept("its lengths are not those of the step")
                cells.append((node, operator.read(node, self._constants)))
            except Kept as reason:
                self._tell(f"{describe(node)} stays float32: {reason}")
        states = {
            inputs(node, 5): [name for name in node.output[:2] if name]
            for node, cell in cells
            if cell.bounded
        }
        self._bounded_states = bounded_states(self._model.graph, self._spec, states)
        return [self._layer(node, cell) for node, cell in cells]

    def _layer(self, node: onnx.NodeProto, cell: operator.Cell) -> Layer:
        bounded = cell.bounded and self._is_bounded_state(inputs(node, 5))
        state = carried(self._model.graph, node, self._spec.states) if bounded else None
        return Layer(cell=cell, node=node, bounded=bounded, carried=state)

    def _turns(self) -> tuple[int, set[str]]:
        """Makes products inside Scans int8; returns their number and the Scans' bounded outputs."""
        count, known = 0, set[str]()
        for node, body in scans(self._model.graph):
            begins = {name for name in node.input if self._is_bounded_state(name)}
            bounds = scan_bounds(node, body, begins)
            count += turns.quantize_turns(
                self._editor, self._arithmetic, node, body, self._constants, bounds, self._tell
            )
            known |= bounds.outputs
        return count, known

    def _products(self, layers: list[Layer], known: set[str]) -> int:
        """Makes layers read codes and products int8, in the main graph; returns the number of
        products.
        """
        bounded = {
            name: layer.node
            for layer in layers
            if layer.bounded
            for name in layer.node.output
            if name
        }
        codebook = Codebook(self._editor, self._arithmetic, self._constants, bounded, known)
        # Layers decide on their own new products, so list the old products first.
        nodes = [node for node in self._model.graph.node if node.op_type in products.KINDS]
        for layer in layers:
            layer.read_codes(self._editor, self._arithmetic, codebook, self._tell)
        found = products.Products(self._editor, self._arithmetic, codebook, self._constants)
        count = 0
        for node in nodes:
            try:
                found.quantize(node)
                count += 1
            except Kept as reason:
                self._tell(f"{describe(node)} stays float32: {reason}")
        return count

    def _write(self, layers: list[Layer]) -> None:
        """Replaces the layers' operators by Scans."""
        needed = self._editor.needed()
        by_name = {node.name: node for node in self._model.graph.node}
        for layer in layers:
            node = by_name.get(layer.name)
            if node is not None:
                node.CopyFrom(scan(self._editor, self._arithmetic, layer, node, needed))

    def _respecify(self, layers: list[Layer]) -> ModelSpec:
        coded = {
            layer.carried.name: carry_codes(self._model.graph, layer.carried)
            for layer in layers
            if layer.carried is not None
        }
        states = tuple(coded.get(state.name, state) for state in self._spec.states)
        if layers and self._spec.lengths is not None:
            self._drop_lengths(self._spec.lengths)
        return replace(self._spec, states=states, lengths=None if layers else self._spec.lengths)

    def _drop_lengths(self, name: str) -> None:
        """Computes lengths from the shape of the elements, for nodes that still read lengths."""
        graph = self._editor
        graph.drop_inputs({name})
        if name in graph.needed():
            shape = graph.node("Shape", [self._spec.input.name])
            rows, steps = (
                graph.node("Gather", [shape, graph.constant(np.array(index))]) for index in ([0], 1)
            )
            steps = graph.node("Cast", [steps], to=TensorProto.INT32)
            graph.node("Expand", [steps, rows], name)

    def _is_bounded_state(self, name: str) -> bool:
        return source(name, self._makers) in self._bounded_states


def _opset(model: onnx.ModelProto) -> int:
    return next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
