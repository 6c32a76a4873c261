"""Which tensors are known to lie between -1 and 1."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from elman_server.spec import ModelSpec

UNIT = ("Sigmoid", "HardSigmoid", "Softmax")
"""Operators whose results lie between 0 and 1."""
BOUNDED = ("Tanh", "Softsign", *UNIT)
"""Operators whose results lie between -1 and 1."""
MOVES = ("Transpose", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Identity")
"""Operators that put the same values elsewhere."""

_VIEWS = (*MOVES, "Slice", "Gather", "Split")
_KEEPS_ALL = {"Where": slice(1, 3), "Concat": slice(None), "Mul": slice(None)}
"""Operators that are bounded where these of their inputs are."""

Makers = Mapping[str, onnx.NodeProto]


def makers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each name."""
    return {name: node for node in graph.node for name in node.output if name}


def bounded(name: str, made_by: Makers, known: Callable[[str], bool]) -> bool:
    """Whether a tensor is bounded; `known` says it of names that come from elsewhere."""
    if known(name):
        return True
    node = made_by.get(name)
    if node is None:
        return False
    if node.op_type in MOVES:
        return bounded(node.input[0], made_by, known)
    if node.op_type in _KEEPS_ALL:
        given = list(node.input)[_KEEPS_ALL[node.op_type]]
        return all(bounded(each, made_by, known) for each in given)
    return node.op_type in BOUNDED


def begins_bounded(name: str, made_by: Makers, spec: ModelSpec) -> bool:
    """Whether a tensor is (a part of) a state that is bounded at a session's begin."""
    while (node := made_by.get(name)) is not None and node.op_type in _VIEWS:
        name = node.input[0]
    state = next((state for state in spec.states if state.input == name), None)
    if state is None or state.name in spec.initialized:
        return False
    return bool(np.abs(state.initial_value()).max(initial=0) <= 1)


@dataclass(frozen=True, slots=True)
class ScanBounds:
    """What is known to be bounded of a Scan."""

    states: frozenset[str]
    """Names in the body of the states that begin bounded and stay so."""
    outputs: frozenset[str]
    """Names around it of what it gives."""


def scan_bounds(
    scan: onnx.NodeProto, body: onnx.GraphProto, begins: Callable[[str], bool]
) -> ScanBounds:
    """`begins` says whether a tensor is bounded with which a state begins."""
    turns = next(each.i for each in scan.attribute if each.name == "num_scan_inputs")
    count = len(scan.input) - turns
    following = {body.input[at].name: body.output[at].name for at in range(count)}
    states = {body.input[at].name for at in range(count) if begins(scan.input[at])}
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
