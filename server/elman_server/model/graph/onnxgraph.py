"""Graph of a model: nodes with operators, names of inputs and outputs, and inner graphs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from elman_server.model.graph.onnxproto import Message

_DEFAULT_DOMAIN = "ai.onnx"
_MOST_SHOWN = 100
"""Characters of a name in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of a graph."""

    operator: str
    domain: str = ""
    """Empty for ONNX's own operators."""
    name: str = ""
    inputs: tuple[str, ...] = ()
    """Names of the inputs; the empty string for an omitted input."""
    outputs: tuple[str, ...] = ()
    graphs: "Mapping[str, Graph]" = field(default_factory=dict)
    """Inner graphs by attribute, for example a Loop's `body` or an If's `then_branch`."""

    def __str__(self) -> str:
        """Returns operator and name for messages, shortened: names in an untrusted file may have
        any length and any content."""
        operator, name = _shortened(self.operator), _shortened(self.name)
        return f"{operator} {name!r}" if name else operator


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Nodes with the names of the graph's inputs and outputs."""

    nodes: tuple[Node, ...] = ()
    """Nodes in topological order."""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGraph:
    """Main graph and functions of a model."""

    graph: Graph
    functions: Mapping[tuple[str, str], Graph]
    """Functions by domain and name."""


def read(model: Message) -> ModelGraph:
    """Converts a model parsed by `onnxproto.parse`."""
    return ModelGraph(
        graph=_graph(model.graph),
        functions={
            (_text(function.domain), _text(function.name)): Graph(
                nodes=_nodes(function.node),
                inputs=_texts(function.input),
                outputs=_texts(function.output),
            )
            for function in model.functions
        },
    )


def _graph(message: Message) -> Graph:
    return Graph(
        nodes=_nodes(message.node),
        inputs=_texts(value.name for value in message.input),
        outputs=_texts(value.name for value in message.output),
    )


def _nodes(messages: Iterable[Message]) -> tuple[Node, ...]:
    return tuple(_node(message) for message in messages)


def _node(message: Message) -> Node:
    graphs: dict[str, Graph] = {}
    for attribute in message.attribute:
        name = _text(attribute.name)
        if attribute.HasField("g"):
            graphs[name] = _graph(attribute.g)
        for index, graph in enumerate(attribute.graphs):
            graphs[f"{name} {index}"] = _graph(graph)
    domain = _text(message.domain)
    return Node(
        operator=_text(message.op_type),
        domain="" if domain == _DEFAULT_DOMAIN else domain,
        name=_text(message.name),
        inputs=_texts(message.input),
        outputs=_texts(message.output),
        graphs=graphs,
    )


def _texts(names: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(_text(name) for name in names)


def _text(name: bytes) -> str:
    """Decodes a name of arbitrary bytes. Different names stay different."""
    return name.decode(errors="surrogateescape")


def _shortened(name: str) -> str:
    return name if len(name) <= _MOST_SHOWN else f"{name[:_MOST_SHOWN]}..."
