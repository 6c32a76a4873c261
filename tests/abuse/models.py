"""Step models that an abuser would like to be served."""

from pathlib import Path

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
from tests import stepmodels

Built = tuple[onnx.ModelProto, ModelSpec]


def turning() -> Built:
    """`y = h = h + x`, after a loop of |x| turns: its time is what its data says."""
    info, node = helper.make_tensor_value_info, helper.make_node
    body = helper.make_graph(
        [node("Identity", ["go"], ["go_on"]), node("Add", ["sum", "nothing"], ["sum_next"])],
        "turn",
        [
            info("turn", TensorProto.INT64, []),
            info("go", TensorProto.BOOL, []),
            info("sum", TensorProto.FLOAT, []),
        ],
        [info("go_on", TensorProto.BOOL, []), info("sum_next", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array(0, np.float32), "nothing")],
    )
    nodes = [
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Abs", ["most"], ["size"]),
        node("Cast", ["size"], ["turns"], to=TensorProto.INT64),
        node("Loop", ["turns", "yes", "zero"], ["spun"], body=body),
        node("Add", ["h", "x"], ["plain"]),
        node("Add", ["plain", "spun"], ["h_next"]),
        node("Identity", ["h_next"], ["y"]),
    ]
    weights = {"yes": np.array(True), "zero": np.array(0, np.float32)}
    return _built(nodes, weights, width=1, out=1, state=(1,))


def linear(width: int) -> Built:
    """`y = h = A h + B x`: a dense linear recurrence, whose products are as small as its input."""
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("MatMul", ["h", "A"], ["carried"]),
        helper.make_node("MatMul", ["x", "B"], ["driven"]),
        helper.make_node("Add", ["carried", "driven"], ["h_next"]),
        helper.make_node("Identity", ["h_next"], ["y"]),
    ]
    weights = {
        name: rng.normal(size=(width, width), scale=0.02).astype(np.float32) for name in "AB"
    }
    return _built(nodes, weights, width=width, out=width, state=(width,))


def lstm(hidden: int, width: int) -> Built:
    """An LSTM on features, one element a step."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Unsqueeze", ["x", "zero"], ["steps"]),
        helper.make_node(
            "LSTM",
            ["steps", "W", "R", "", "", "h", "c"],
            ["", "h_next", "c_next"],
            hidden_size=hidden,
        ),
        helper.make_node("Squeeze", ["h_next", "zero"], ["y"]),
    ]
    weights: dict[str, np.ndarray] = {"zero": np.array([0])}
    for name, dims in (("W", (1, 4 * hidden, width)), ("R", (1, 4 * hidden, hidden))):
        weights[name] = rng.normal(size=dims, scale=dims[-1] ** -0.5).astype(np.float32)
    return _built(
        nodes, weights, width=width, out=hidden, state=(1, hidden), states="hc", batch_axis=1
    )


def wide(outputs: int) -> Built:
    """One feature in, so many numbers out, all the same: `y = h = 0.5 h + x`."""
    nodes = [
        helper.make_node("Mul", ["h", "half"], ["decayed"]),
        helper.make_node("Add", ["decayed", "x"], ["h_next"]),
        helper.make_node("Expand", ["h_next", "shape"], ["y"]),
    ]
    weights = {"half": np.array(0.5, np.float32), "shape": np.array([1, outputs])}
    return _built(nodes, weights, width=1, out=outputs, state=(1,))


def deep(state: int) -> Built:
    """So many numbers of state: each session costs four bytes for each."""
    nodes = [
        helper.make_node("Add", ["h", "x"], ["h_next"]),
        helper.make_node("Identity", ["x"], ["y"]),
    ]
    return _built(nodes, {}, width=1, out=1, state=(state,))


def save(built: Built, repository: Path, name: str) -> Path:
    model, spec = built
    return stepmodels.save(model, spec, repository / name / "1/model.onnx")


def _built(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    *,
    width: int,
    out: int,
    state: tuple[int, ...],
    states: str = "h",
    batch_axis: int = 0,
) -> Built:
    info = helper.make_tensor_value_info
    dims: list[str | int | None] = [*state]
    dims.insert(batch_axis, "batch")
    graph = helper.make_graph(
        nodes,
        "abused",
        [
            info("x", TensorProto.FLOAT, ["batch", width]),
            *(info(name, TensorProto.FLOAT, dims) for name in states),
        ],
        [
            info("y", TensorProto.FLOAT, ["batch", out]),
            *(info(f"{name}_next", TensorProto.FLOAT, dims) for name in states),
        ],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, ModelSpec(
        input=InputSpec(name="x", kind=InputKind.FEATURES, dtype="float32", shape=(width,)),
        outputs=(OutputSpec(name="y", kind=OutputKind.VALUES, dtype="float32", shape=(out,)),),
        states=tuple(
            StateSpec(
                name=name,
                input=name,
                output=f"{name}_next",
                dtype="float32",
                shape=state,
                batch_axis=batch_axis,
            )
            for name in states
        ),
        time_axis=False,
    )
