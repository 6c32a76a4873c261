"""Small step models for tests, written node by node, with random but seeded weights."""

import base64
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from elman_server.model import modelfile
from elman_server.model.spec import (
    FINGERPRINT_KEY,
    INITIAL_KEY,
    SPEC_KEY,
    ContextSpec,
    InputKind,
    InputSpec,
    ModelSpec,
    OutputKind,
    OutputSpec,
    StateSpec,
)

ALPHABET = "abcdefghijklmnopqrstuvwxyz .,"

Conditioned = tuple[onnx.ModelProto, ModelSpec, onnx.ModelProto]
"""A step model, its spec and its initial-state network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a test's step model is built."""

    hidden: int = 16
    layers: int = 1
    embedded: int = 8
    vocabulary: str = ALPHABET
    time_axis: bool = True
    lengths: bool = True
    initial: tuple[float, ...] | None = None
    """Of every state; None for zeros."""
    seed: int = 0


def lstm(shape: Shape) -> tuple[onnx.ModelProto, ModelSpec]:
    """A character LSTM: ids in, `next` logits out."""
    rng = np.random.default_rng(shape.seed)
    size = len(shape.vocabulary)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def weight(name: str, *dims: int) -> str:
        values = rng.normal(size=dims, scale=dims[-1] ** -0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(values, name))
        return name

    def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs[0]

    weights.append(numpy_helper.from_array(np.array([1]), "one"))
    if not shape.time_axis:
        weights.append(numpy_helper.from_array(np.array([0]), "zero"))
    x = node("Gather", [weight("embedding", size, shape.embedded), "ids"], ["embedded"])
    # ONNX's recurrent operators take time first.
    if shape.time_axis:
        x = node("Transpose", [x], ["x"], perm=[1, 0, 2])
    else:
        x = node("Unsqueeze", [x, "zero"], ["x"])
    states = []
    for layer in range(shape.layers):
        width = shape.embedded if layer == 0 else shape.hidden
        y = node(
            "LSTM",
            [
                x,
                weight(f"W{layer}", 1, 4 * shape.hidden, width),
                weight(f"R{layer}", 1, 4 * shape.hidden, shape.hidden),
                weight(f"B{layer}", 1, 8 * shape.hidden),
                "lengths" if shape.lengths else "",
                f"h{layer}",
                f"c{layer}",
            ],
            [f"y{layer}", f"h{layer}_next", f"c{layer}_next"],
            hidden_size=shape.hidden,
        )
        x = node("Squeeze", [y, "one"], [f"y{layer}_flat"])
        states += [
            StateSpec(
                name=f"{kind}{layer}",
                input=f"{kind}{layer}",
                output=f"{kind}{layer}_next",
                dtype="float32",
                shape=(1, shape.hidden),
                batch_axis=1,
                initial=shape.initial,
            )
            for kind in "hc"
        ]
    if shape.time_axis:
        x = node("Transpose", [x], ["hidden"], perm=[1, 0, 2])
    else:
        x = node("Squeeze", [x, "zero"], ["hidden"])
    x = node("MatMul", [x, weight("head", shape.hidden, size)], ["next"])
    axes: list[str | int | None] = ["batch", "time"] if shape.time_axis else ["batch"]
    info = helper.make_tensor_value_info
    inputs = [info("ids", TensorProto.INT64, axes)]
    if shape.lengths:
        inputs.append(info("lengths", TensorProto.INT32, ["batch"]))
    dims: list[str | int | None] = [1, "batch", shape.hidden]
    graph = helper.make_graph(
        nodes,
        "lstm",
        [*inputs, *(info(s.input, TensorProto.FLOAT, dims) for s in states)],
        [
            info("next", TensorProto.FLOAT, [*axes, size]),
            *(info(s.output, TensorProto.FLOAT, dims) for s in states),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, ModelSpec(
        description="random letters",
        input=InputSpec(
            name="ids",
            kind=InputKind.TEXT,
            dtype="int64",
            size=size,
            vocabulary=tuple(shape.vocabulary),
        ),
        outputs=(
            OutputSpec(
                name="next",
                kind=OutputKind.LOGITS,
                dtype="float32",
                shape=(size,),
                labels=tuple(shape.vocabulary),
            ),
        ),
        states=tuple(states),
        time_axis=shape.time_axis,
        lengths="lengths" if shape.lengths else None,
    )


def named_tokens(count: int) -> tuple[onnx.ModelProto, ModelSpec]:
    """The LSTM of `lstm` over that many token ids, in and out, each with a name."""
    letters = "".join(chr(0x10000 + number) for number in range(count))
    model, spec = lstm(Shape(vocabulary=letters, hidden=2, embedded=2))
    names = tuple(f"token {number}" for number in range(count))
    return model, replace(
        spec,
        input=replace(spec.input, kind=InputKind.TOKENS, vocabulary=names),
        outputs=(replace(spec.outputs[0], labels=names),),
    )


def leaky(*, width: int = 1, mixes_rows: bool = False) -> tuple[onnx.ModelProto, ModelSpec]:
    """A leaky sum over time of `width` features, one element a step: `y = h = 0.5 h + x`.

    Its arithmetic is simple enough to see mistakes: every wrong row or state shows. With
    `mixes_rows`, each row also sees the sum over the batch.
    """
    nodes = [
        helper.make_node("Mul", ["h", "half"], ["decayed"]),
        helper.make_node("Add", ["decayed", "x"], ["plain"]),
        helper.make_node("Identity", ["h_next"], ["y"]),
    ]
    if mixes_rows:
        nodes.insert(2, helper.make_node("ReduceSum", ["plain", "batch"], ["all"], keepdims=1))
        nodes.insert(3, helper.make_node("Add", ["plain", "all"], ["h_next"]))
    else:
        nodes.insert(2, helper.make_node("Identity", ["plain"], ["h_next"]))
    info = helper.make_tensor_value_info
    dims: list[str | int | None] = ["batch", width]
    graph = helper.make_graph(
        nodes,
        "leaky",
        [info("x", TensorProto.FLOAT, dims), info("h", TensorProto.FLOAT, dims)],
        [info("y", TensorProto.FLOAT, dims), info("h_next", TensorProto.FLOAT, dims)],
        [
            numpy_helper.from_array(np.array(0.5, np.float32), "half"),
            numpy_helper.from_array(np.array([0]), "batch"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, ModelSpec(
        input=InputSpec(name="x", kind=InputKind.FEATURES, dtype="float32", shape=(width,)),
        outputs=(OutputSpec(name="y", kind=OutputKind.VALUES, dtype="float32", shape=(width,)),),
        states=(
            StateSpec(
                name="h",
                input="h",
                output="h_next",
                dtype="float32",
                shape=(width,),
                batch_axis=0,
            ),
        ),
        time_axis=False,
    )


def turning() -> tuple[onnx.ModelProto, ModelSpec]:
    """A running sum, `y = h = h + x`, of which a step of an element `x` makes `|x|` turns of a Loop
    that change nothing: it takes as long as the element says."""
    info, node = helper.make_tensor_value_info, helper.make_node
    body = helper.make_graph(
        [node("Identity", ["go"], ["go_on"]), node("Add", ["was", "nothing"], ["is"])],
        "turn",
        [
            info("turn", TensorProto.INT64, []),
            info("go", TensorProto.BOOL, []),
            info("was", TensorProto.FLOAT, []),
        ],
        [info("go_on", TensorProto.BOOL, []), info("is", TensorProto.FLOAT, [])],
    )
    built, spec = leaky()
    graph = built.graph
    del graph.node[:]
    graph.node.extend(
        [
            node("ReduceMax", ["x"], ["most"], keepdims=0),
            node("Abs", ["most"], ["size"]),
            node("Cast", ["size"], ["turns"], to=TensorProto.INT64),
            node("Loop", ["turns", "", "nothing"], ["turned"], body=body),
            node("Add", ["h", "x"], ["sum"]),
            node("Add", ["sum", "turned"], ["h_next"]),
            node("Identity", ["h_next"], ["y"]),
        ]
    )
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    return built, spec


def spinning(turns: int) -> tuple[onnx.ModelProto, ModelSpec]:
    """The sum of `turning`, each step of which makes that many turns, whatever its element."""
    built, spec = turning()
    graph = built.graph
    del graph.node[:3]
    graph.initializer.append(numpy_helper.from_array(np.array(turns), "turns"))
    return built, spec


FOREVER = 2**62
"""Turns that no machine finishes."""


def growing() -> tuple[onnx.ModelProto, ModelSpec]:
    """A running sum, `y = h = h + x`, of which a step of an element `x` fills `|x|` numbers with
    zeros on the way: it takes as much memory as the element says."""
    node = helper.make_node
    built, spec = leaky()
    graph = built.graph
    del graph.node[:]
    graph.node.extend(
        [
            node("ReduceMax", ["x"], ["most"], keepdims=1, axes=[0, 1]),
            node("Squeeze", ["most"], ["one"]),
            node("Abs", ["one"], ["size"]),
            node("Cast", ["size"], ["whole"], to=TensorProto.INT64),
            node("Unsqueeze", ["whole", "batch"], ["shape"]),
            node("ConstantOfShape", ["shape"], ["zeros"]),
            node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
            node("Add", ["h", "x"], ["sum"]),
            node("Add", ["sum", "zero"], ["h_next"]),
            node("Identity", ["h_next"], ["y"]),
        ]
    )
    return built, spec


STYLES = 4
"""The styles that `caption` knows; the graph fails on others."""


def caption(shape: Shape | None = None, *, image: int = 12) -> Conditioned:
    """The LSTM of `lstm`, conditioned on contexts, with its initial-state network.

    `image` float32[image] and `style`, a number below `STYLES`, give the first layer's initial
    states; `gain` float32[embedded] scales every embedding, at every step.
    """
    shape = shape or Shape()
    model, spec = lstm(shape)
    rng = np.random.default_rng(shape.seed + 1)
    info = helper.make_tensor_value_info
    graph = model.graph
    gather = next(node for node in graph.node if node.op_type == "Gather")
    gather.output[0] = "plain"
    place = list(graph.node).index(gather) + 1
    gain = "gain"
    if shape.time_axis:
        gain = "gain of each"
        graph.node.insert(place, helper.make_node("Unsqueeze", ["gain", "one"], [gain]))
        place += 1
    graph.node.insert(place, helper.make_node("Mul", ["plain", gain], ["embedded"]))
    graph.input.append(info("gain", TensorProto.FLOAT, ["batch", shape.embedded]))
    weights = [numpy_helper.from_array(np.array([1]), "one")]
    nodes = []
    for name in ("h0", "c0"):
        table = rng.normal(size=(STYLES, shape.hidden)).astype(np.float32)
        projection = rng.normal(size=(image, shape.hidden), scale=0.3).astype(np.float32)
        weights += [
            numpy_helper.from_array(table, f"{name} styles"),
            numpy_helper.from_array(projection, f"{name} projection"),
        ]
        nodes += [
            helper.make_node("Gather", [f"{name} styles", "style"], [f"{name} style"]),
            helper.make_node("MatMul", ["image", f"{name} projection"], [f"{name} image"]),
            helper.make_node("Add", [f"{name} style", f"{name} image"], [f"{name} sum"]),
            helper.make_node("Tanh", [f"{name} sum"], [f"{name} flat"]),
            helper.make_node("Unsqueeze", [f"{name} flat", "one"], [name]),
        ]
    initial = _model(
        helper.make_graph(
            nodes,
            "initial states",
            [
                info("image", TensorProto.FLOAT, ["batch", image]),
                info("style", TensorProto.INT64, ["batch"]),
            ],
            [info(name, TensorProto.FLOAT, ["batch", 1, shape.hidden]) for name in ("h0", "c0")],
            weights,
        )
    )
    contexts = (
        ContextSpec(name="image", dtype="float32", shape=(image,)),
        ContextSpec(name="style", dtype="int64"),
        ContextSpec(name="gain", dtype="float32", shape=(shape.embedded,), input="gain"),
    )
    return model, replace(spec, contexts=contexts, initialized=("h0", "c0")), initial


def tilted(*, width: int = 1) -> Conditioned:
    """The leaky sum of `leaky` with contexts: `h` begins as `2 start`, each step adds `tilt`."""
    model, spec = leaky(width=width)
    info = helper.make_tensor_value_info
    dims: list[str | int | None] = ["batch", width]
    model.graph.node[1].output[0] = "level"
    model.graph.node.insert(2, helper.make_node("Add", ["level", "tilt"], ["plain"]))
    model.graph.input.append(info("tilt", TensorProto.FLOAT, dims))
    initial = _model(
        helper.make_graph(
            [helper.make_node("Add", ["start", "start"], ["h"])],
            "initial states",
            [info("start", TensorProto.FLOAT, dims)],
            [info("h", TensorProto.FLOAT, dims)],
        )
    )
    contexts = (
        ContextSpec(name="start", dtype="float32", shape=(width,)),
        ContextSpec(name="tilt", dtype="float32", shape=(width,), input="tilt"),
    )
    return model, replace(spec, contexts=contexts, initialized=("h",)), initial


def one_row(built: tuple[onnx.ModelProto, ModelSpec]) -> tuple[onnx.ModelProto, ModelSpec]:
    """The same model with its batch axes fixed to 1."""
    model, spec = built
    for value in (*model.graph.input, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == "batch":
                dimension.dim_value = 1
    return model, replace(spec, batched=False)


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def save(
    model: onnx.ModelProto, spec: ModelSpec, path: Path, initial: onnx.ModelProto | None = None
) -> Path:
    """Writes a step model's file, as the export would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    network = None if initial is None else initial.SerializeToString()
    text = spec.to_json()
    properties = {
        SPEC_KEY: text,
        FINGERPRINT_KEY: modelfile.fingerprint(model.SerializeToString(), text, network),
    }
    if network is not None:
        properties[INITIAL_KEY] = base64.b64encode(network).decode()
    helper.set_model_props(model, properties)
    path.write_bytes(model.SerializeToString())
    return path


def save_lstm(path: Path, **shape: Any) -> Path:
    return save(*lstm(replace(Shape(), **shape)), path)


def save_conditioned(built: Conditioned, path: Path) -> Path:
    model, spec, initial = built
    return save(model, spec, path, initial)
