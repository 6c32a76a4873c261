"""Finds the bounded tensors of a graph: tensors with all values between -1 and 1."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from elman_export.surgery import graphs
from elman_server.model.spec import ModelSpec, StateSpec

UNIT = ("Sigmoid", "HardSigmoid", "Softmax")
"""Operators with results between 0 and 1."""
BOUNDED = ("Tanh", "Softsign", *UNIT)
"""Operators with results between -1 and 1."""
MOVES = ("Transpose", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Identity")
"""Operators that put the same values elsewhere."""

_VIEWS = (*MOVES, "Slice", "Gather", "Split")
_KEEPS_ALL = {"Where": slice(1, 3), "Concat": slice(None), "Mul": slice(None)}
"""Operators with bounded results if these inputs are bounded, as slices of the inputs."""


def bounded(value: ir.Value | None, known: Callable[[ir.Value], bool]) -> bool:
    """Whether a tensor is bounded; `known` decides for tensors from elsewhere."""
    seen, waiting = {value}, [value]
    while waiting:  # every source must be bounded; each is visited once
        each = waiting.pop()
        if each is None:
            return False
        node = each.producer()
        if known(each) or (node is not None and node.op_type in BOUNDED):
            continue
        if node is None or node.op_type not in (*MOVES, *_KEEPS_ALL):
            return False
        kept = _KEEPS_ALL.get(node.op_type, slice(1))
        given = set(node.inputs[kept]) - seen
        seen |= given
        waiting += given
    return True


def source(value: ir.Value) -> ir.Value:
    """The tensor behind a chain of views and parts; `value` itself if there is no chain."""
    while (node := value.producer()) is not None and node.op_type in _VIEWS and node.inputs[0]:
        value = node.inputs[0]
    return value


def bounded_states(
    graph: ir.Graph, spec: ModelSpec, layers: Mapping[ir.Value, Sequence[ir.Value]]
) -> set[ir.Value]:
    """The inputs of states that begin bounded and stay bounded from step to step.

    `layers` maps an initial state to tensors; a bounded state makes the tensors bounded.
    """
    following = {
        graphs.input_named(graph, state.input): graphs.output_named(graph, state.output)
        for state in spec.states
        if _begins_bounded(state, spec)
    }
    found = set(following)
    while True:
        known = set(found)
        for given, made in layers.items():
            if source(given) in found:
                known.update(made)
        for scan, body in scans(graph):
            begins = {value for value in scan.inputs if value and source(value) in found}
            known |= scan_bounds(scan, body, begins).outputs
        kept = {value for value in found if bounded(following[value], known.__contains__)}
        if kept == found:
            return found
        found = kept


def _begins_bounded(state: StateSpec, spec: ModelSpec) -> bool:
    begins = np.abs(state.initial_value()).max(initial=0) <= 1
    return bool(begins) and state.name not in spec.initialized


def scans(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Graph]]:
    """The Scans of a graph, with their bodies."""
    for node in graph:
        if node.op_type == "Scan":
            yield node, node.attributes["body"].as_graph()


@dataclass(frozen=True, slots=True)
class ScanBounds:
    """The bounded tensors of a Scan."""

    states: frozenset[ir.Value]
    """States in the body that begin bounded and stay bounded."""
    outputs: frozenset[ir.Value]
    """Bounded outputs, in the graph around the Scan."""


def scan_bounds(scan: ir.Node, body: ir.Graph, begins: Container[ir.Value | None]) -> ScanBounds:
    """The bounded tensors of a Scan; `begins` are the bounded initial states."""
    count = len(scan.inputs) - scan.attributes["num_scan_inputs"].as_int()
    following = dict(zip(body.inputs[:count], body.outputs[:count], strict=True))
    states = {body.inputs[at] for at in range(count) if scan.inputs[at] in begins}
    while True:
        kept = {value for value in states if bounded(following[value], states.__contains__)}
        if kept == states:
            break
        states = kept
    given = zip(scan.outputs, body.outputs, strict=False)
    return ScanBounds(
        frozenset(states),
        frozenset(outer for outer, value in given if bounded(value, states.__contains__)),
    )
