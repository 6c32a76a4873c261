"""An editor for ONNX graphs: nodes, names, constants and order.

The editor does not know what a graph computes. Subgraphs (the branches of an If) read names of the
graphs around them. So every name is unique in the whole model, and uses are searched in all
subgraphs.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from elman_export.errors import UnsupportedGraph
from elman_export.surgery.onnxnodes import Names, describe


@dataclass(frozen=True, slots=True)
class Branch:
    """A subgraph and the node around it."""

    node: onnx.NodeProto
    attribute: str
    graph: onnx.GraphProto


@dataclass(frozen=True, slots=True)
class Place:
    """A node, the node's graph, and the surrounding branches, outermost first."""

    node: onnx.NodeProto
    graph: onnx.GraphProto
    branches: tuple[Branch, ...] = ()


def branches(node: onnx.NodeProto) -> Iterator[Branch]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield Branch(node, attribute.name, attribute.g)
        for graph in attribute.graphs:
            yield Branch(node, attribute.name, graph)


def places(graph: onnx.GraphProto) -> Iterator[Place]:
    """Every node in file order, including nodes of subgraphs."""
    waiting = [Place(node, graph) for node in reversed(graph.node)]
    while waiting:
        place = waiting.pop()
        yield place
        for branch in reversed(list(branches(place.node))):
            waiting.extend(
                Place(node, branch.graph, (*place.branches, branch))
                for node in reversed(branch.graph.node)
            )


def attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    """The node's attributes by name; a string is a `str`."""
    found = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        elif isinstance(value, list) and value and isinstance(value[0], bytes):
            value = [each.decode(errors="replace") for each in value]
        found[attribute.name] = value
    return found


def inputs(node: onnx.NodeProto, index: int) -> str:
    """The name of an input; empty for an omitted optional input."""
    return node.input[index] if index < len(node.input) else ""


def outputs(node: onnx.NodeProto, index: int) -> str:
    return node.output[index] if index < len(node.output) else ""


def reads(node: onnx.NodeProto) -> set[str]:
    """The names of a node's inputs, and of the outer tensors read in its subgraphs."""
    found = {name for name in node.input if name}
    for branch in branches(node):
        found |= _free(branch.graph)
    return found


def _free(graph: onnx.GraphProto) -> set[str]:
    """Names read in a graph and made outside."""
    read: set[str] = {value.name for value in graph.output}
    made: set[str] = {value.name for value in graph.input}
    for place in places(graph):
        read.update(name for name in place.node.input if name)
        made.update(name for name in place.node.output if name)
        for branch in branches(place.node):
            read.update(value.name for value in branch.graph.output)
            made.update(value.name for value in branch.graph.input)
            made.update(each.name for each in branch.graph.initializer)
    made.update(each.name for each in graph.initializer)
    return read - made


class Editor:
    """Changes a model in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self._names = Names(model)
        self.fresh = self._names.fresh

    def constant(self, value: object, name: str = "constant") -> str:
        unique = self.fresh(name)
        self.graph.initializer.append(numpy_helper.from_array(np.array(value), unique))
        return unique

    def node(self, operator: str, given: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Adds a single-output node at the graph's end; returns the output's name.

        `sort` moves the node into place.
        """
        name = self.fresh(f"elman/{operator}")
        made = output or name
        self._names.take(made)
        self.graph.node.append(helper.make_node(operator, given, [made], name=name, **attributes))
        return made

    def replace(self, old: str, new: str) -> None:
        """Makes every reader of `old` read `new`."""
        for place in places(self.graph):
            place.node.input[:] = [new if name == old else name for name in place.node.input]
            for branch in branches(place.node):
                for value in branch.graph.output:
                    if value.name == old:
                        # A branch must make its outputs itself, so `new` goes through an Identity.
                        branch.graph.node.append(
                            helper.make_node("Identity", [new], [self.fresh(f"{old}/out")])
                        )
                        value.name = branch.graph.node[-1].output[0]

    def constants(self) -> dict[str, np.ndarray]:
        """The values of the main graph's initializers, by name."""
        return {each.name: numpy_helper.to_array(each) for each in self.graph.initializer}

    def lift_constants(self) -> None:
        """Turns the main graph's Constant nodes into initializers."""
        kept = []
        for node in self.graph.node:
            value = _constant_value(node) if node.op_type == "Constant" else None
            if value is None:
                kept.append(node)
            else:
                self.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        _refill(self.graph.node, kept)

    def fix(self, name: str, value: np.ndarray) -> None:
        """Turns an input of the graph into a constant."""
        self.drop_inputs({name})
        self.graph.initializer.append(numpy_helper.from_array(value, name))

    def drop_inputs(self, names: Container[str]) -> None:
        _refill(self.graph.input, [each for each in self.graph.input if each.name not in names])

    def needed(self) -> set[str]:
        """The names of all node inputs and of the graph's outputs."""
        found = {value.name for value in self.graph.output}
        for node in self.graph.node:
            found |= reads(node)
        return found

    def prune(self) -> None:
        """Removes nodes and initializers not needed for any output."""
        needed = {value.name for value in self.graph.output}
        kept = []
        for node in reversed(self.graph.node):
            if not needed.isdisjoint(node.output):
                kept.append(node)
                needed |= reads(node)
        _refill(self.graph.node, reversed(kept))
        used = [each for each in self.graph.initializer if each.name in needed]
        _refill(self.graph.initializer, used)
        del self.graph.value_info[:]

    def sort(self) -> None:
        """Moves each node behind the makers of its inputs; otherwise keeps the order.

        Raises `UnsupportedGraph` for a cyclic graph.
        """
        nodes = list(self.graph.node)
        made_at = {name: at for at, node in enumerate(nodes) for name in node.output if name}
        waits = [{made_at[name] for name in reads(node) if name in made_at} for node in nodes]
        order: list[int] = []
        done: set[int] = set()
        waiting = list(range(len(nodes)))
        while waiting:
            later = []
            for at in waiting:
                if waits[at] <= done:
                    order.append(at)
                    done.add(at)
                else:
                    later.append(at)
            if len(later) == len(waiting):
                raise UnsupportedGraph(f"the graph goes in circles at {describe(nodes[later[0]])}")
            waiting = later
        _refill(self.graph.node, [nodes[at] for at in order])


def _constant_value(node: onnx.NodeProto) -> np.ndarray | None:
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    match attribute.name:
        case "value":
            return numpy_helper.to_array(value)
        case "value_int" | "value_ints":
            return np.array(value, np.int64)
        case "value_float" | "value_floats":
            return np.array(value, np.float32)
    return None


def _refill(field: Any, items: Iterable[Any]) -> None:
    kept = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(kept)
