"""The nodes of an ONNX model, including nodes of subgraphs, and the names in use."""

from collections.abc import Iterable, Iterator, Mapping

from onnx import GraphProto, ModelProto, NodeProto

SIZES_ONLY = ("Shape", "Size")
"""Operators that read only an input's shape."""
RANDOM = frozenset(
    {
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        *("Bernoulli", "Multinomial"),
    }
)
"""Operators with random results."""


def graphs(model: ModelProto) -> Iterator[GraphProto]:
    """The model's graph and every graph inside a node, at any depth."""
    waiting = [model.graph]
    bodies: list[NodeProto] = [node for each in model.functions for node in each.node]
    waiting.extend(_inside(bodies))
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting.extend(_inside(graph.node))


def nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node, including nodes of subgraphs and functions."""
    for each in model.functions:
        yield from each.node
    for graph in graphs(model):
        yield from graph.node


def _inside(nodes: Iterable[NodeProto]) -> list[GraphProto]:
    found = []
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found.append(attribute.g)
            found.extend(attribute.graphs)
    return found


def describe(node: NodeProto) -> str:
    """The node for people: operator and name, or an output's name for a nameless node."""
    name = node.name or next((output for output in node.output if output), "")
    return f"{node.op_type} {name!r}"


def inputs(node: NodeProto, index: int) -> str:
    """The name of an input; empty for an omitted optional input."""
    return node.input[index] if index < len(node.input) else ""


def makers(graph: GraphProto) -> Mapping[str, NodeProto]:
    """The nodes of a graph by output name."""
    return {name: node for node in graph.node for name in node.output if name}


def before_casts(makers: Mapping[str, NodeProto], name: str) -> str:
    """The name of the tensor in front of a chain of Casts and Identities."""
    while name in makers and makers[name].op_type in ("Cast", "Identity"):
        name = makers[name].input[0]
    return name
