"""The recurrent operators of a graph, and a check that they can carry a stream."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from elman_export.errors import UnsupportedGraph
from elman_export.surgery import graphs
from elman_export.surgery.graphs import Branch, Place, describe, places

_OPERATORS = frozenset(
    {
        *((domain, kind) for domain in ("", "ai.onnx") for kind in ("RNN", "GRU", "LSTM")),
        ("com.microsoft", "DynamicQuantizeLSTM"),
    }
)
"""Recurrent operators, as (domain, operator)."""
LENGTHS, _INITIAL_H, _INITIAL_C = 4, 5, 6
"""Indices of these inputs in ONNX's recurrent operators and in ONNX Runtime's quantized LSTM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A state of a recurrent operator, with the indices of input and output."""

    part: str
    """`h` or `c`."""
    given: int
    """Index of the operator's input."""
    made: int
    """Index of the operator's output."""


@dataclass(frozen=True, slots=True)
class Recurrent:
    """A recurrent operator and its place in the graph."""

    place: Place

    @property
    def node(self) -> ir.Node:
        return self.place.node

    @property
    def branches(self) -> tuple[Branch, ...]:
        return self.place.branches

    @property
    def hidden_size(self) -> int:
        return self.node.attributes["hidden_size"].as_int()

    @property
    def states(self) -> tuple[State, ...]:
        return states(self.node)

    @property
    def lengths(self) -> ir.Value | None:
        return graphs.input_at(self.node, LENGTHS)

    def set_input(self, index: int, value: ir.Value | None) -> None:
        graphs.set_input(self.node, index, value)

    def set_lengths(self, value: ir.Value | None) -> None:
        graphs.set_input(self.node, LENGTHS, value)

    def output(self, index: int) -> ir.Value | None:
        return graphs.output_at(self.node, index)


def is_recurrent(node: ir.Node | onnx.NodeProto) -> bool:
    return (node.domain, node.op_type) in _OPERATORS


def states(node: ir.Node | onnx.NodeProto) -> tuple[State, ...]:
    """The states of a recurrent operator."""
    h = State(part="h", given=_INITIAL_H, made=1)
    c = State(part="c", given=_INITIAL_C, made=2)
    return (h, c) if node.op_type.endswith("LSTM") else (h,)


def find(graph: ir.Graph) -> list[Recurrent]:
    """The recurrent operators, including operators inside If branches.

    Raises `UnsupportedGraph` for an operator in a loop, with layout=1, or with a direction other
    than forward.
    """
    found = [Recurrent(place) for place in places(graph) if is_recurrent(place.node)]
    for each in found:
        _check(each)
    return found


def _check(recurrent: Recurrent) -> None:
    what = describe(recurrent.node)
    given = recurrent.node.attributes
    direction = given.get_string("direction", "forward")
    if direction == "bidirectional":
        raise UnsupportedGraph(
            f"{what} is bidirectional: it reads each sequence from its end too, and a stream has "
            "no end to read from"
        )
    if direction != "forward":
        raise UnsupportedGraph(
            f"{what} reads each sequence from its end (direction={direction!r}), and a stream has "
            "no end to read from"
        )
    if given.get_int("layout", 0):
        raise UnsupportedGraph(
            f"{what} has layout=1, which ONNX Runtime does not run; export it time-major"
        )
    for branch in recurrent.branches:
        if branch.node.op_type != "If":
            raise UnsupportedGraph(
                f"{what} stands in the body of {describe(branch.node)}: what a loop hands from "
                "turn to turn can't be lifted out of it"
            )


def names(recurrents: list[Recurrent]) -> Iterator[str]:
    """Short names from kind and number, such as `lstm0`, `gru1`."""
    for number, each in enumerate(recurrents):
        yield f"{each.node.op_type.removeprefix('DynamicQuantize').lower()}{number}"
