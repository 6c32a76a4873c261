"""Whole-sequence graphs as exporters write them, small and with seeded weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dims = Sequence[str | int | None]

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FEATURES, HIDDEN, OUT = 5, 6, 4
TIME = 9
"""The length of sequences that are compared by hand, and of those written into a graph."""


class Graph:
    """A graph under construction. `add` returns the name of a node's first output."""

    def __init__(self, opset: int = 17) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.rng = np.random.default_rng(7)

    def input(self, name: str, dims: Dims, kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, dims))
        return name

    def output(self, name: str, dims: Dims | None = None, kind: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, kind, dims))

    def constant(self, value: Any, name: str = "") -> str:
        name = name or f"constant{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(value), name))
        return name

    def weight(self, *shape: int, name: str = "") -> str:
        return self.constant(self.rng.normal(size=shape, scale=0.5).astype(np.float32), name)

    def add(
        self, operator: str, given: Sequence[str], made: str | Sequence[str] = "", **rest: Any
    ) -> str:
        names = [made] if isinstance(made, str) else list(made)
        number = len(self.nodes)
        names = [name or f"{operator}_{number}_{index}" for index, name in enumerate(names)]
        name = rest.pop("name", f"{operator.lower()}_{len(self.nodes)}")
        self.nodes.append(helper.make_node(operator, given, names, name=name, **rest))
        return names[0]

    def recurrent(
        self,
        operator: str,
        x: str,
        features: int = FEATURES,
        *,
        lengths: str = "",
        h: str = "",
        c: str = "",
        peephole: bool = False,
        made: Sequence[str] = ("",),
        **rest: Any,
    ) -> str:
        gates = GATES[operator] * HIDDEN
        directions = 2 if rest.get("direction") == "bidirectional" else 1
        given = [
            x,
            self.weight(directions, gates, features),
            self.weight(directions, gates, HIDDEN),
            self.weight(directions, 2 * gates),
            lengths,
            h,
        ]
        if operator == "LSTM":
            given.append(c)
            given += [self.weight(directions, 3 * HIDDEN)] if peephole else []
        while given[-1] == "":
            given.pop()
        return self.add(operator, given, made, hidden_size=HIDDEN, **rest)

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "whole", self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def save(self, path: Path) -> Path:
        path.write_bytes(self.model().SerializeToString())
        return path


def time_major(graph: Graph, x: str) -> str:
    return graph.add("Transpose", [x], perm=[1, 0, 2])


def batch_major(graph: Graph, y: str) -> str:
    """`[time, 1, batch, hidden]` as `[batch, time, hidden]`."""
    flat = graph.add("Squeeze", [y, graph.constant(np.array([1]))])
    return graph.add("Transpose", [flat], perm=[1, 0, 2])


def behind_a_layer() -> tuple[Graph, str]:
    """A graph that is not finished, and a layer's answers in it, `[batch, time, hidden]`."""
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    return graph, batch_major(graph, graph.recurrent("GRU", time_major(graph, "x")))


def channels_over_time() -> tuple[Graph, str]:
    """The same laid out for a convolution, `[batch, hidden, time]`."""
    graph, hidden = behind_a_layer()
    return graph, graph.add("Transpose", [hidden], perm=[0, 2, 1])


def linear(graph: Graph, x: str, made: str, size: int = HIDDEN, out: int = OUT) -> str:
    product = graph.add("MatMul", [x, graph.weight(size, out)])
    return graph.add("Add", [product, graph.weight(out)], made)


def per_step(operator: str = "LSTM", **rest: Any) -> Graph:
    """`x [batch, time, 5]` to `y [batch, time, 4]`."""
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    y = graph.recurrent(operator, time_major(graph, "x"), **rest)
    linear(graph, batch_major(graph, y), "y")
    graph.output("y", ["batch", "time", OUT])
    return graph
