"""Hidden states carried from step to step as codes (see `arithmetic`): a byte instead of four.

The step of an LSTM or RNN reads only the codes of the hidden state. So the graph's input and output
of a hidden state can be codes, if the state goes straight from the input into the operator, and
from the operator straight to the output.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto

from elman_export.quantization.arithmetic import codes
from elman_export.surgery.editor import inputs, outputs, reads
from elman_server.model.spec import StateSpec

_KINDS = ("LSTM", "RNN")


def carried(
    graph: onnx.GraphProto, node: onnx.NodeProto, states: Iterable[StateSpec]
) -> StateSpec | None:
    """The spec of a layer's hidden state, if only the layer reads and writes it; else None."""
    given, made = inputs(node, 5), outputs(node, 1)
    state = next((state for state in states if state.input == given), None)
    if node.op_type not in _KINDS or state is None or len(_readers(graph, given)) != 1:
        return None
    readers = _readers(graph, made)
    if made != state.output:
        if len(readers) != 1 or readers[0].op_type != "Identity":
            return None
        made = readers[0].output[0]
        readers = _readers(graph, made)
    shown = {value.name for value in graph.output}
    if made != state.output or readers or given in shown or outputs(node, 1) in shown - {made}:
        return None
    return state


def carry_codes(graph: onnx.GraphProto, state: StateSpec) -> StateSpec:
    """Makes the graph take and return a state as codes; returns the state's new spec."""
    for value in (*graph.input, *graph.output):
        if value.name in (state.input, state.output):
            value.type.tensor_type.elem_type = TensorProto.UINT8
    first = codes(state.initial_value()).ravel()
    return replace(state, dtype="uint8", initial=tuple(first.astype(np.float64).tolist()))


def _readers(graph: onnx.GraphProto, name: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if name in reads(node)]
