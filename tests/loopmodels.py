"""Step models that take as long as their elements say, or for ever."""

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from elman_server.model.spec import (
    InputKind,
    InputSpec,
    ModelSpec,
    OutputKind,
    OutputSpec,
    StateSpec,
)
from tests.stepmodels import save

FOR_EVER = 2**62


def save_loop(path: Path, *, turns: int | None = None, more: int = 0) -> Path:
    """`h_next = y = h + x` after a loop of `turns`, or of |x| and `more`."""
    info, node = helper.make_tensor_value_info, helper.make_node
    body = helper.make_graph(
        [node("Identity", ["go"], ["go_on"]), node("Add", ["v", "nothing"], ["v_next"])],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), _scalar("v")],
        [info("go_on", TensorProto.BOOL, []), _scalar("v_next")],
        [numpy_helper.from_array(np.array(0, np.float32), "nothing")],
    )
    weights = [
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.array(0, np.float32), "zero"),
        numpy_helper.from_array(np.array(more if turns is None else turns), "fixed"),
    ]
    if turns is None:
        counted = [
            node("ReduceMax", ["x"], ["most"], keepdims=0),
            node("Abs", ["most"], ["size"]),
            node("Cast", ["size"], ["asked"], to=TensorProto.INT64),
            node("Add", ["asked", "fixed"], ["turns"]),
        ]
    else:
        counted = [node("Identity", ["fixed"], ["turns"])]
    graph = helper.make_graph(
        [
            *counted,
            node("Loop", ["turns", "yes", "zero"], ["spun"], body=body),
            node("Add", ["h", "x"], ["sum"]),
            node("Add", ["sum", "spun"], ["h_next"]),
            node("Identity", ["h_next"], ["y"]),
        ],
        "loop",
        [_column("x"), _column("h")],
        [_column("y"), _column("h_next")],
        weights,
    )
    spec = ModelSpec(
        input=InputSpec(name="x", kind=InputKind.FEATURES, dtype="float32", shape=(1,)),
        outputs=(OutputSpec(name="y", kind=OutputKind.VALUES, dtype="float32", shape=(1,)),),
        states=(
            StateSpec(
                name="h", input="h", output="h_next", dtype="float32", shape=(1,), batch_axis=0
            ),
        ),
        time_axis=False,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return save(model, spec, path)


def _scalar(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [])


def _column(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1])
