"""ONNX graphs as onnx-ir objects: reading and writing of models, and what onnx-ir leaves out.

A value knows the node that makes it and all uses, also uses in subgraphs (the branches of an If).
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from elman_export.errors import UnsupportedGraph
from elman_export.surgery import onnxnodes, onnxtensors


@dataclass(frozen=True, slots=True)
class Branch:
    """A subgraph and the node around it."""

    node: ir.Node
    attribute: str
    graph: ir.Graph


@dataclass(frozen=True, slots=True)
class Place:
    """A node and the surrounding branches, outermost first."""

    node: ir.Node
    branches: tuple[Branch, ...] = ()


def read(model: onnx.ModelProto, *, typed: bool = False) -> ir.Model:
    """A copy of the model. Raises `UnsupportedGraph` if onnx-ir can't read the model.

    Keeps the types and shapes of inputs and outputs; of other values only with `typed`.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    onnxtensors.densify(proto)
    for graph in () if typed else onnxnodes.graphs(proto):
        del graph.value_info[:]
    try:
        return ir.from_proto(proto)
    except ir.serde.SerdeError as error:
        cause = " ".join(str(error.__cause__ or error).split())
        raise UnsupportedGraph(f"the graph can't be read: {cause}") from None


def write(model: ir.Model) -> onnx.ModelProto:
    made = ir.to_proto(model)
    for graph in onnxnodes.graphs(made):
        del graph.value_info[:]
    return made


def lift_constants(graph: ir.Graph) -> None:
    """Turns the graph's Constant nodes into initializers. Constants in subgraphs stay nodes."""
    for node in graph:
        if node.op_type != "Constant":
            continue
        (output,) = node.outputs
        tensor = ir.convenience.get_const_tensor(output)
        if tensor is None:
            continue
        value = ir.val(output.name, const_value=tensor)
        output.replace_all_uses_with(value, replace_graph_outputs=True)
        graph.remove(node)
        graph.initializers.add(value)


def branches(node: ir.Node) -> Iterator[Branch]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield Branch(node, attribute.name, attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                yield Branch(node, attribute.name, graph)


def places(graph: ir.Graph, around: tuple[Branch, ...] = ()) -> Iterator[Place]:
    """Every node in file order, including nodes of subgraphs."""
    for node in graph:
        yield Place(node, around)
        for branch in branches(node):
            yield from places(branch.graph, (*around, branch))


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """An input; None for an omitted optional input."""
    return node.inputs[index] if index < len(node.inputs) else None


def output_at(node: ir.Node, index: int) -> ir.Value | None:
    """An output; None for an omitted optional output."""
    found = node.outputs[index] if index < len(node.outputs) else None
    return found if found is not None and found.name else None


def add_output(node: ir.Node, index: int, name: str) -> ir.Value:
    """Gives a name to an omitted optional output."""
    node.resize_outputs(max(len(node.outputs), index + 1))
    for value in node.outputs:
        value.name = value.name or ""
    node.outputs[index].name = name
    return node.outputs[index]


def set_input(node: ir.Node, index: int, value: ir.Value | None) -> None:
    node.resize_inputs(max(len(node.inputs), index + 1))
    node.replace_input_with(index, value)


def reads(node: ir.Node) -> set[ir.Value]:
    """A node's inputs, and the outer values read in the node's subgraphs."""
    found = {value for value in node.inputs if value is not None}
    for branch in branches(node):
        inside = {branch.graph}
        for inner in RecursiveGraphIterator(branch.graph):
            inside.update(each.graph for each in branches(inner))
            found.update(value for value in inner.inputs if value is not None)
        found = {value for value in found if value.graph not in inside}
    return found


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of an initializer; None for any other value."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def initializer_value(initializer: ir.Value) -> np.ndarray:
    found = constant(initializer)
    assert found is not None
    return found


def values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value made by the graph's nodes."""
    return (value for node in graph for value in node.outputs if value.name)


def input_named(graph: ir.Graph, name: str) -> ir.Value:
    return next(value for value in graph.inputs if value.name == name)


def output_named(graph: ir.Graph, name: str) -> ir.Value:
    return next(value for value in graph.outputs if value.name == name)


def replace(old: ir.Value, new: ir.Value) -> None:
    """Makes every node that reads `old` read `new`. The graph's outputs stay."""
    for node, index in tuple(old.uses()):
        node.replace_input_with(index, new)


def remove(node: ir.Node) -> None:
    """Removes a node without readers, with the node's subgraphs."""
    for branch in branches(node):
        # onnx-ir only takes the node's own inputs off their uses.
        for inner in RecursiveGraphIterator(branch.graph):
            for index in range(len(inner.inputs)):
                inner.replace_input_with(index, None)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def prune(graph: ir.Graph) -> None:
    """Removes nodes and initializers not needed for any output.

    Unlike onnx-ir's pass, keeps unread outputs of the remaining nodes: heads may read them later.
    """
    for node in reversed(graph):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            remove(node)
    for name, value in list(graph.initializers.items()):
        if not (value.uses() or value.is_graph_input() or value.is_graph_output()):
            del graph.initializers[name]


def extract(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy with only the named outputs, and the inputs and nodes needed for them."""
    found = model.clone()
    graph = found.graph
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in names)
    prune(graph)
    for value in list(graph.inputs):
        if not value.uses() and not value.is_graph_output():
            graph.inputs.remove(value)
    return found


def describe(node: ir.Node) -> str:
    """The node for people: operator and name, or an output's name for a nameless node."""
    name = node.name or next((value.name for value in node.outputs if value.name), "")
    return f"{node.op_type} {name!r}"


def before_casts(value: ir.Value | None) -> ir.Value | None:
    """The value in front of a chain of Casts and Identities."""
    while (
        value is not None
        and (maker := value.producer()) is not None
        and maker.op_type in ("Cast", "Identity")
    ):
        value = maker.inputs[0]
    return value


def set_type(
    value: ir.Value, dtype: npt.DTypeLike, dims: Sequence[str | int | None] | None = None
) -> None:
    """Sets the type and shape of an input or output."""
    value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
    value.shape = None if dims is None else ir.Shape(dims)


def open_axis(value: ir.Value, axis: int, name: str) -> None:
    """Declares an axis of any length."""
    assert value.shape is not None
    value.shape = ir.Shape([*value.shape[:axis], name, *value.shape[axis + 1 :]])


def typed_value(name: str, dtype: npt.DTypeLike, dims: Sequence[str | int | None]) -> ir.Value:
    """A value with a declared type and shape, to be an input or output."""
    value = ir.Value(name=name)
    set_type(value, dtype, dims)
    return value


class Builder:
    """Adds nodes to a graph, and constants to the main graph, under names new in the model."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        """The graph of new nodes."""
        self._main = model.graph
        self._taken: set[str | None] = {value.name for value in self.graph.inputs}
        self._taken.update(self.graph.initializers)
        for node in RecursiveGraphIterator(self.graph):
            self._taken.add(node.name)
            self._taken.update(value.name for value in (*node.inputs, *node.outputs) if value)
            for branch in branches(node):
                self._taken.update(value.name for value in branch.graph.inputs)
                self._taken.update(branch.graph.initializers)

    def within(self, graph: ir.Graph) -> "Builder":
        """A builder for nodes of a subgraph."""
        other = copy.copy(self)
        other.graph = graph
        return other

    def take_over(self, old: ir.Value, new: ir.Value) -> None:
        """Puts a new value in the place of an old one, under the old name."""
        new.name, old.name = old.name, self.fresh(f"{old.name}/old")
        new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def fresh(self, name: str) -> str:
        """`name`, or `name` with a number if `name` is in use."""
        unique, number = name, 1
        while unique in self._taken:
            unique, number = f"{name}.{number}", number + 1
        self._taken.add(unique)
        return unique

    def constant(self, value: object, name: str = "constant") -> ir.Value:
        made = ir.val(self.fresh(name), const_value=ir.Tensor(np.array(value)))
        self._main.initializers.add(made)
        return made

    def node(
        self,
        operator: str,
        given: Sequence[ir.Value | None],
        output: str = "",
        *,
        domain: str = "",
        **attributes: Any,
    ) -> ir.Value:
        """Adds a single-output node at the graph's end; `Graph.sort` moves the node into place."""
        name = self.fresh(f"elman/{operator}")
        self._taken.add(output)
        made = ir.node(operator, given, attributes, domain=domain, name=name)
        made.outputs[0].name = output or name
        self.graph.append(made)
        return made.outputs[0]
