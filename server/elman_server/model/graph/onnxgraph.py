"""The nodes of a model's graph, and what connects them: their operators, the names that they take
and give, and the graphs inside them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from elman_server.model.graph.onnxproto import Message

_DEFAULT_DOMAIN = "ai.onnx"
_MOST_SHOWN = 100
"""Characters of a name."""


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
        """For people: a stranger's names may be of any length and hold anything."""
        operator, name = _shortened(self.operator), _shortened(self.name)
        return f"{operator} {name!r}" if name else operator


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


def read(model: Message) -> ModelGraph:
    """The graph of a model that `onnxproto.parse` read."""
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
    """Names may hold anything; different ones stay different."""
    return name.decode(errors="surrogateescape")


def _shortened(name: str) -> str:
    return name if len(name) <= _MOST_SHOWN else f"{name[:_MOST_SHOWN]}..."
