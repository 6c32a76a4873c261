"""Step models of every recurrent operator, small, with seeded random weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from elman_server.model.spec import (
    InputKind,
    InputSpec,
    ModelSpec,
    OutputKind,
    OutputSpec,
    StateSpec,
)

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
IDS, OUT = 11, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """Ids or features, layers of one cell, and a product with a matrix behind them."""

    cell: str = "LSTM"
    layers: int = 1
    hidden: int = 16
    width: int = 8
    """Of the embedding, or of the features."""
    features: bool = False
    opset: int = 20
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Of every recurrent operator."""
    peepholes: bool = False
    out: int = OUT
    initial: float = 0.0
    """Of every state."""
    lengths: bool = True
    scale: float = 1.0
    """What weights and features are multiplied by."""
    seed: int = 0

    def __str__(self) -> str:
        said = [
            f"{each.name}={value}"
            for each in fields(self)
            if each.name not in ("cell", "attributes")
            and (value := getattr(self, each.name)) != each.default
        ]
        return " ".join([self.cell, *said, *map(str, self.attributes.values())])

    def build(self) -> tuple[onnx.ModelProto, ModelSpec]:
        return _Builder(self).build()

    def elements(self, batch: int, time: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        if self.features:
            x = rng.standard_normal((batch, time, self.width)) * self.scale
            return x.astype(np.float32)
        return rng.integers(0, IDS, (batch, time))


class _Builder:
    def __init__(self, net: Net) -> None:
        self.net = net
        self.rng = np.random.default_rng(net.seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.states: list[StateSpec] = []

    def weight(self, name: str, *dims: int, scale: float = 1.0) -> str:
        values = self.rng.normal(size=dims, scale=scale * dims[-1] ** -0.5)
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))
        return outputs[0]

    def build(self) -> tuple[onnx.ModelProto, ModelSpec]:
        net = self.net
        x = "x"
        if not net.features:
            x = self.node("Gather", [self.weight("embedding", IDS, net.width), x], "embedded")
        x = self.node("Transpose", [x], "timed", perm=[1, 0, 2])
        for layer in range(net.layers):
            x = self._layer(x, layer, net.width if layer == 0 else net.hidden)
        x = self.node("Transpose", [x], "hidden", perm=[1, 0, 2])
        self.node("MatMul", [x, self.weight("head", net.hidden, net.out)], "y")
        return self._model(), self._spec()

    def _layer(self, x: str, layer: int, width: int) -> str:
        net, gates = self.net, GATES[self.net.cell]
        made = [self._state(f"{part}{layer}") for part in ("hc" if gates == 4 else "h")]
        y = self.node(
            net.cell,
            [
                x,
                self.weight(f"W{layer}", 1, gates * net.hidden, width, scale=net.scale),
                self.weight(f"R{layer}", 1, gates * net.hidden, net.hidden),
                self.weight(f"B{layer}", 1, 2 * gates * net.hidden, scale=4),
                "lengths" if net.lengths else "",
                *(state.input for state in made),
                *([self.weight(f"P{layer}", 1, 3 * net.hidden, scale=4)] if net.peepholes else []),
            ],
            f"y{layer}",
            *(state.output for state in made),
            hidden_size=net.hidden,
            **net.attributes,
        )
        if net.opset < 13:
            return self.node("Squeeze", [y], f"flat{layer}", axes=[1])
        if not layer:
            self.weights.append(numpy_helper.from_array(np.array([1]), "one"))
        return self.node("Squeeze", [y, "one"], f"flat{layer}")

    def _state(self, name: str) -> StateSpec:
        hidden, initial = self.net.hidden, self.net.initial
        self.states.append(
            StateSpec(
                name=name,
                input=name,
                output=f"{name}.next",
                dtype="float32",
                shape=(1, hidden),
                batch_axis=1,
                initial=(initial,) * hidden if initial else None,
            )
        )
        return self.states[-1]

    def _model(self) -> onnx.ModelProto:
        net, info = self.net, helper.make_tensor_value_info
        axes: list[str | int | None] = ["batch", "time"]
        dims: list[str | int | None] = [1, "batch", net.hidden]
        kind, shape = (
            (TensorProto.FLOAT, [*axes, net.width]) if net.features else (TensorProto.INT64, axes)
        )
        graph = helper.make_graph(
            self.nodes,
            "step",
            [
                info("x", kind, shape),
                *([info("lengths", TensorProto.INT32, ["batch"])] if net.lengths else []),
                *(info(state.input, TensorProto.FLOAT, dims) for state in self.states),
            ],
            [
                info("y", TensorProto.FLOAT, [*axes, net.out]),
                *(info(state.output, TensorProto.FLOAT, dims) for state in self.states),
            ],
            self.weights,
        )
        opsets = [helper.make_opsetid("", net.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=7)

    def _spec(self) -> ModelSpec:
        net = self.net
        return ModelSpec(
            input=InputSpec(name="x", kind=InputKind.FEATURES, dtype="float32", shape=(net.width,))
            if net.features
            else InputSpec(name="x", kind=InputKind.TOKENS, dtype="int64", size=IDS),
            outputs=(
                OutputSpec(name="y", kind=OutputKind.VALUES, dtype="float32", shape=(net.out,)),
            ),
            states=tuple(self.states),
            time_axis=True,
            lengths="lengths" if net.lengths else None,
        )
