"""Finds the bounded tensors of a graph: tensors with all values between -1 and 1."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

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

Makers = Mapping[str, onnx.NodeProto]


def makers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The nodes of a graph by the names of their outputs."""
    return {name: node for node in graph.node for name in node.output if name}


def bounded(name: str, made_by: Makers, known: Callable[[str], bool]) -> bool:
    """Whether a tensor is bounded; `known` decides for tensors from elsewhere."""
    seen, waiting = {name}, [name]
    while waiting:  # every source must be bounded; each is visited once
        each = waiting.pop()
        node = made_by.get(each)
        if known(each) or (node is not None and node.op_type in BOUNDED):
            continue
        if node is None or node.op_type not in (*MOVES, *_KEEPS_ALL):
            return False
        kept = _KEEPS_ALL.get(node.op_type, slice(1))
        given = set(node.input[kept]) - seen
        seen |= given
        waiting += given
    return True


def source(name: str, made_by: Makers) -> str:
    """The tensor behind a chain of views and parts; `name` itself if there is no chain."""
    while (node := made_by.get(name)) is not None and node.op_type in _VIEWS:
        name = node.input[0]
    return name


def bounded_states(
    graph: onnx.GraphProto, spec: ModelSpec, layers: Mapping[str, Sequence[str]]
) -> set[str]:
    """The inputs of states that begin bounded and stay bounded from step to step.

    `layers` maps the name of an initial state to tensors; a bounded state makes the tensors
    bounded.
    """
    made_by = makers(graph)
    found = {state.input for state in spec.states if _begins_bounded(state, spec)}
    while True:
        known = set(found)
        for given, made in layers.items():
            if source(given, made_by) in found:
                known.update(made)
        for scan, body in scans(graph):
            begins = {name for name in scan.input if source(name, made_by) in found}
            known |= scan_bounds(scan, body, begins).outputs
        kept = {
            state.input
            for state in spec.states
            if state.input in found and bounded(state.output, made_by, known.__contains__)
        }
        if kept == found:
            return found
        found = kept


def _begins_bounded(state: StateSpec, spec: ModelSpec) -> bool:
    begins = np.abs(state.initial_value()).max(initial=0) <= 1
    return bool(begins) and state.name not in spec.initialized


def scans(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.GraphProto]]:
    """The Scans of a graph, with their bodies."""
    for node in graph.node:
        if node.op_type == "Scan":
            yield node, helper.get_node_attr_value(node, "body")


@dataclass(frozen=True, slots=True)
class ScanBounds:
    """The bounded tensors of a Scan."""

    states: frozenset[str]
    """Names in the body of states that begin bounded and stay bounded."""
    outputs: frozenset[str]
    """Names, in the graph around the Scan, of bounded outputs."""


def scan_bounds(scan: onnx.NodeProto, body: onnx.GraphProto, begins: Container[str]) -> ScanBounds:
    """The bounded tensors of a Scan; `begins` are the bounded initial states."""
    turns = next(each.i for each in scan.attribute if each.name == "num_scan_inputs")
    count = len(scan.input) - turns
    following = {body.input[at].name: body.output[at].name for at in range(count)}
    states = {body.input[at].name for at in range(count) if scan.input[at] in begins}
    made_by = makers(body)
    while True:
        kept = {name for name in states if bounded(following[name], made_by, states.__contains__)}
        if kept == states:
            break
        states = kept
    given = zip(scan.output, body.output, strict=False)
    return ScanBounds(
        frozenset(states),
        frozenset(
            name
            for name, value in given
            if name and bounded(value.name, made_by, states.__contains__)
        ),
    )
