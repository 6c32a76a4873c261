"""Streaming graphs as strangers make them: an LSTM in any layout, and what it must say."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from elman_export import pipeline
from elman_export.errors import ExportError, fitting
from elman_export.options import GraphInputs, Options
from elman_export.original import onnxfile
from elman_export.original.adoption import streaming
from elman_export.writer import Report

FEATURES, HIDDEN, ANSWERS = 3, 4, 2

Dims = Sequence[str | int | None]


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {
        "W": (1, 4 * HIDDEN, FEATURES),
        "R": (1, 4 * HIDDEN, HIDDEN),
        "B": (1, 8 * HIDDEN),
        "head": (HIDDEN, ANSWERS),
    }
    return {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}


def answers(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """`[time, ANSWERS]` for `x [time, FEATURES]`: the LSTM in numpy, from zeros."""
    w = {name: value.astype(np.float64) for name, value in weights(seed).items()}
    bias = w["B"][0, : 4 * HIDDEN] + w["B"][0, 4 * HIDDEN :]
    h = c = np.zeros(HIDDEN)
    found = []
    for element in x.astype(np.float64):
        i, o, f, g = np.split(w["W"][0] @ element + w["R"][0] @ h + bias, 4)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        found.append(h @ w["head"])
    return np.array(found)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = 1 / (1 + np.exp(-x))
    return result


@dataclass
class Graph:
    """Nodes and ports that are put together one by one."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.array(value), name))
        return name

    def node(self, operator: str, given: str, made: str, **options: Any) -> str:
        self.nodes.append(helper.make_node(operator, given.split(), made.split(), **options))
        return made.split()[0]

    def takes(self, name: str, dims: Dims | None, kind: int = TensorProto.FLOAT) -> None:
        self.inputs.append(helper.make_tensor_value_info(name, kind, dims))

    def gives(self, name: str, dims: Dims | None, kind: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, kind, dims))

    def model(self, opset: int = 17) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "g", self.inputs, self.outputs, initializer=self.constants
        )
        imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)

    def save(self, folder: Path, opset: int = 17) -> Path:
        path = folder / "given.onnx"
        path.write_bytes(self.model(opset).SerializeToString())
        return path


def lstm(
    order: str = "btf",
    *,
    batch: str | int | None = "batch",
    time: str | int | None = "time",
    features: int | None = FEATURES,
    names: Sequence[str] = ("x", "h0", "c0", "y", "hn", "cn"),
    state: Dims | None = None,
    answered: Dims | None = (),
    packed: bool = False,
    lengths: bool = False,
) -> Graph:
    """An LSTM and a head.

    `order` are the axes of the elements' input: b for rows, t for steps, u for a length of 1, f for
    the features; the output has the same. States are `[1, batch, HIDDEN]`, or both in one as
    `[2, batch, HIDDEN]`. `state` and `answered` are declared instead of the right shapes.
    """
    graph = Graph()
    x, h, c, y, hn, cn = names
    sizes: dict[str, str | int | None] = {"b": batch, "t": time, "u": 1, "f": features}
    graph.takes(x, [sizes[axis] for axis in order])
    for name, value in weights().items():
        graph.constant(name, value)
    parts = 2 if packed else 1
    declared = state if state is not None else [parts, batch if "b" in order else 1, HIDDEN]
    graph.takes(h, declared)
    if not packed:
        graph.takes(c, declared)
    if lengths:
        graph.takes("lengths", [batch], TensorProto.INT64)
        graph.node("Cast", "lengths", "lengths32", to=TensorProto.INT32)
    _arranged(graph, x, order, "tbf", "X")
    first, second = (h, c)
    if packed:
        first, second = "h_part", "c_part"
        graph.node("Split", h, f"{first} {second}", axis=0)
    ends = ("Yh", "Yc") if packed else (hn, cn)
    graph.nodes.append(
        helper.make_node(
            "LSTM",
            ["X", "W", "R", "B", "lengths32" if lengths else "", first, second],
            ["Y", *ends],
            name="lstm",
            hidden_size=HIDDEN,
        )
    )
    if packed:
        graph.node("Concat", "Yh Yc", hn, axis=0)
    graph.node("Squeeze", f"Y {graph.constant('directions', [1])}", "Y3")
    graph.node("MatMul", "Y3 head", "Z")
    _arranged(graph, "Z", "tbf", order, y)
    sizes["f"] = ANSWERS
    graph.gives(y, [sizes[axis] for axis in order] if answered == () else answered)
    graph.gives(hn, declared if answered == () else None)
    if not packed:
        graph.gives(cn, declared if answered == () else None)
    return graph


def _arranged(graph: Graph, given: str, order: str, wanted: str, made: str) -> None:
    """Axes that one has and the other lacks are 1 long."""
    gone = [place for place, axis in enumerate(order) if axis not in wanted]
    kept = [axis for axis in order if axis in wanted]
    if gone:
        given = graph.node(
            "Squeeze", f"{given} {graph.constant(f'{made}/gone', gone)}", f"{made}/squeezed"
        )
    both = [axis for axis in wanted if axis in kept]
    given = graph.node(
        "Transpose", given, f"{made}/turned", perm=[kept.index(axis) for axis in both]
    )
    new = [place for place, axis in enumerate(wanted) if axis not in order]
    if new:
        given = graph.node(
            "Unsqueeze", f"{given} {graph.constant(f'{made}/new', new)}", f"{made}/unsqueezed"
        )
    graph.node("Identity", given, made)


def leaky() -> Graph:
    """`y = h' = 0.5 h + x`, one element a step; x and h `[batch, 2]`."""
    graph = Graph()
    graph.constant("half", np.float32(0.5))
    dims: Dims = ["batch", 2]
    graph.takes("x", dims)
    graph.takes("h", dims)
    graph.node("Mul", "h half", "decayed")
    graph.node("Add", "decayed x", "h_out")
    graph.node("Identity", "h_out", "y")
    graph.gives("y", dims)
    graph.gives("h_out", dims)
    return graph


SWAPPED = {"h0": "cn", "c0": "hn"}
"""A wrong pairing of `lstm`'s states."""


def adopt(graph: Path | onnx.ModelProto, output: Path, **options: Any) -> Report:
    """A graph exported as a streaming graph, whatever the declarations say."""
    names = {each.name for each in fields(GraphInputs)}
    inputs = GraphInputs(**{name: options[name] for name in names & set(options)})
    others = Options(**{name: options[name] for name in set(options) - names})
    model = graph if isinstance(graph, onnx.ModelProto) else onnxfile.load(graph)
    with fitting():
        original = streaming.original(model, inputs, others)
    return pipeline.export(original, output, others)


def adopted(graph: Graph, folder: Path, **options: object) -> Report:
    return adopt(graph.save(folder), folder / "m.onnx", **options)


def refusal(graph: Graph, folder: Path, **options: object) -> str:
    with pytest.raises(ExportError) as caught:
        adopted(graph, folder, **options)
    assert [path.name for path in folder.iterdir()] == ["given.onnx"]
    message = str(caught.value)
    assert "\n" not in message
    return message
