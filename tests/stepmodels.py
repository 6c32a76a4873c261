"""Small step models for tests, written node by node, with random but seeded weights."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from elman_server import modelfile
from elman_server.spec import (
    FINGERPRINT_KEY,
    SPEC_KEY,
    InputKind,
    InputSpec,
    ModelSpec,
    OutputKind,
    OutputSpec,
    StateSpec,
)

ALPHABET = "abcdefghijklmnopqrstuvwxyz .,"


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


def save(model: onnx.ModelProto, spec: ModelSpec, path: Path) -> Path:
    """Writes a step model's file, as the export would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = spec.to_json()
    fingerprint = modelfile.fingerprint(model.SerializeToString(), text)
    helper.set_model_props(model, {SPEC_KEY: text, FINGERPRINT_KEY: fingerprint})
    path.write_bytes(model.SerializeToString())
    return path


def save_lstm(path: Path, **shape: Any) -> Path:
    return save(*lstm(replace(Shape(), **shape)), path)
