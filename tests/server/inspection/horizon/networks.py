"""Networks whose memory is known exactly, as step models and as plain arithmetic."""

from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from elman_server.model import modelfile
from elman_server.model.spec import (
    InputKind,
    InputSpec,
    ModelSpec,
    OutputKind,
    OutputSpec,
    StateSpec,
)
from elman_server.runner.model import StepModel
from tests.stepmodels import save

Built = tuple[ModelProto, ModelSpec]


def load(built: Built, folder: Path, initial: ModelProto | None = None) -> StepModel:
    path = save(*built, folder / "model.onnx", initial)
    return StepModel(modelfile.read(path), threads=1, providers=("CPUExecutionProvider",))


def delay(lag: int, kind: OutputKind = OutputKind.VALUES) -> Built:
    """Says the element that came `lag` elements ago, and nothing else: a line of `lag` places."""
    nodes = [
        helper.make_node("Concat", ["line", "x"], ["longer"], axis=1),
        helper.make_node("Slice", ["longer", "one", "end", "axis"], ["line_next"]),
        helper.make_node("Slice", ["longer", "zero", "one", "axis"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    numbers = {"zero": 0, "one": 1, "end": lag + 1, "axis": 1}
    graph = helper.make_graph(
        nodes,
        "delay",
        [
            info("x", TensorProto.FLOAT, ["batch", 1]),
            info("line", TensorProto.FLOAT, ["batch", lag]),
        ],
        [
            info("y", TensorProto.FLOAT, ["batch", 1]),
            info("line_next", TensorProto.FLOAT, ["batch", lag]),
        ],
        [numpy_helper.from_array(np.array([value]), name) for name, value in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, ModelSpec(
        input=InputSpec(name="x", kind=InputKind.FEATURES, dtype="float32", shape=(1,)),
        outputs=(OutputSpec(name="y", kind=kind, dtype="float32", shape=(1,)),),
        states=(
            StateSpec(
                name="line",
                input="line",
                output="line_next",
                dtype="float32",
                shape=(lag,),
                batch_axis=0,
            ),
        ),
        time_axis=False,
    )
