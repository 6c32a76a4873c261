"""Hidden states carried from step to step as codes (see `arithmetic`): a byte instead of four.

The step of an LSTM or RNN reads only the codes of the hidden state. So the graph's input and output
of a hidden state can be codes, if the state goes straight from the input into the operator, and
from the operator straight to the output.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from elman_export.quantization.arithmetic import codes
from elman_export.surgery import graphs
from elman_server.model.spec import StateSpec

_KINDS = ("LSTM", "RNN")


def carried(node: ir.Node, states: Iterable[StateSpec]) -> StateSpec | None:
    """The spec of a layer's hidden state, if only the layer reads and writes it; else None."""
    given, h = graphs.input_at(node, 5), graphs.output_at(node, 1)
    if node.op_type not in _KINDS or given is None or h is None or len(given.uses()) != 1:
        return None
    state = next((state for state in states if state.input == given.name), None)
    if state is None or given.is_graph_output():
        return None
    made = h
    if h.name != state.output:
        readers = list(h.uses())
        if len(readers) != 1 or readers[0].node.op_type != "Identity" or h.is_graph_output():
            return None
        made = readers[0].node.outputs[0]
    return None if made.name != state.output or made.uses() else state


def carry_codes(graph: ir.Graph, state: StateSpec) -> StateSpec:
    """Makes the graph take and return a state as codes; returns the state's new spec."""
    for value in (graphs.input_named(graph, state.input), graphs.output_named(graph, state.output)):
        value.dtype = ir.DataType.UINT8
    first = codes(state.initial_value()).ravel()
    return replace(state, dtype="uint8", initial=tuple(first.astype(np.float64).tolist()))
