"""The nodes of an ONNX file's graph, read without the onnx package, which a server does not have.

Only what connects nodes is read: their operators, the names that they take and give, and the graphs
inside them. Weights are not.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

# Field numbers of onnx.proto, by message. Those of NodeProto and FunctionProto stand where they are
# matched.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 11, 12
_VALUE_NAME = 1
_ATTRIBUTE_NAME, _ATTRIBUTE_GRAPH = 1, 6

_DEFAULT_DOMAIN = "ai.onnx"
_MOST_NESTED = 33
"""Graphs inside graphs; a runtime's protobuf reads messages of a depth of 100, and there are three
to a graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    operator: str
    domain: str = ""
    """Empty for ONNX's own."""
    name: str = ""
    inputs: tuple[str, ...] = ()
    """An input that is left out is the empty string."""
    outputs: tuple[str, ...] = ()
    graphs: "Mapping[str, Graph]" = field(default_factory=dict)
    """By the attribute that holds each: a Loop's `body`, an If's `then_branch`."""

    def __str__(self) -> str:
        return f"{self.operator} {self.name!r}" if self.name else self.operator


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    nodes: tuple[Node, ...] = ()
    """Each after those whose outputs it takes."""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGraph:
    graph: Graph
    functions: Mapping[tuple[str, str], Graph]
    """By domain and name."""


def read(model: bytes) -> ModelGraph:
    """The graph of a serialized ModelProto.

    Raises `DecodeError` or `UnicodeDecodeError` for bytes that are none.
    """
    graph, functions = Graph(), {}
    for number, value in fields(model):
        if number == _MODEL_GRAPH:
            graph = _graph(value, 0)
        elif number == _MODEL_FUNCTIONS:
            key, function = _function(value)
            functions[key] = function
    return ModelGraph(graph=graph, functions=functions)


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a serialized message, in file order."""
    unknown: Iterable[Any] = UnknownFieldSet(Empty.FromString(message))  # type: ignore[assignment]
    for found in unknown:
        if isinstance(found.data, bytes):
            yield found.field_number, found.data


def _graph(message: bytes, depth: int) -> Graph:
    if depth > _MOST_NESTED:
        raise DecodeError(f"graphs inside graphs, more than {_MOST_NESTED} deep")
    nodes: list[Node] = []
    inputs: list[str] = []
    outputs: list[str] = []
    for number, value in fields(message):
        if number == _GRAPH_NODE:
            nodes.append(_node(value, depth))
        elif number == _GRAPH_INPUT:
            inputs.append(_name(value))
        elif number == _GRAPH_OUTPUT:
            outputs.append(_name(value))
    return Graph(nodes=tuple(nodes), inputs=tuple(inputs), outputs=tuple(outputs))


def _name(value_info: bytes) -> str:
    return dict(fields(value_info)).get(_VALUE_NAME, b"").decode()


def _node(message: bytes, depth: int) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    graphs: dict[str, Graph] = {}
    operator = domain = name = ""
    for number, value in fields(message):
        match number:
            case 1:
                inputs.append(value.decode())
            case 2:
                outputs.append(value.decode())
            case 3:
                name = value.decode()
            case 4:
                operator = value.decode()
            case 5:
                attribute = dict(fields(value))
                if _ATTRIBUTE_GRAPH in attribute:
                    key = attribute.get(_ATTRIBUTE_NAME, b"").decode()
                    graphs[key] = _graph(attribute[_ATTRIBUTE_GRAPH], depth + 1)
            case 7:
                domain = value.decode()
    return Node(
        operator=operator,
        domain="" if domain == _DEFAULT_DOMAIN else domain,
        name=name,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        graphs=graphs,
    )


def _function(message: bytes) -> tuple[tuple[str, str], Graph]:
    nodes: list[Node] = []
    inputs: list[str] = []
    outputs: list[str] = []
    name = domain = ""
    for number, value in fields(message):
        match number:
            case 1:
                name = value.decode()
            case 4:
                inputs.append(value.decode())
            case 5:
                outputs.append(value.decode())
            case 7:
                nodes.append(_node(value, 0))
            case 10:
                domain = value.decode()
    graph = Graph(nodes=tuple(nodes), inputs=tuple(inputs), outputs=tuple(outputs))
    return (domain, name), graph
