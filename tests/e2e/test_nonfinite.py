"""A model whose numbers go beyond floats: counted, logged once, and an error where something is
chosen from them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import elman
from elman_server.model.spec import (
    InputKind,
    InputSpec,
    ModelSpec,
    OutputKind,
    OutputSpec,
    StateSpec,
)
from tests.e2e.conftest import Connect
from tests.serverprocess import ServerProcess
from tests.stepmodels import save

COUNTED = "elman_nonfinite_predictions_total"


def exploding() -> tuple[onnx.ModelProto, ModelSpec]:
    """Over tokens: `h = 1e30 h + id`, and the logits `h [0, 1, -1, 2]`. After a 1, the third
    prediction is [NaN, infinity, -infinity, infinity]."""
    info, node = helper.make_tensor_value_info, helper.make_node
    weights = {"w": np.array([[0, 1, -1, 2]], "f4"), "one": np.array([1])}
    graph = helper.make_graph(
        [
            node("Cast", ["ids"], ["x"], to=TensorProto.FLOAT),
            node("Unsqueeze", ["x", "one"], ["column"]),
            node("Mul", ["h", "large"], ["grown"]),
            node("Add", ["grown", "column"], ["h_next"]),
            node("Mul", ["h_next", "w"], ["next"]),
        ],
        "exploding",
        [info("ids", TensorProto.INT64, ["batch"]), info("h", TensorProto.FLOAT, ["batch", 1])],
        [
            info("next", TensorProto.FLOAT, ["batch", 4]),
            info("h_next", TensorProto.FLOAT, ["batch", 1]),
        ],
        [
            *(numpy_helper.from_array(array, name) for name, array in weights.items()),
            numpy_helper.from_array(np.array(1e30, "f4"), "large"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, ModelSpec(
        input=InputSpec(name="ids", kind=InputKind.TOKENS, dtype="int64", size=4),
        outputs=(OutputSpec(name="next", kind=OutputKind.LOGITS, dtype="float32", shape=(4,)),),
        states=(
            StateSpec(
                name="h", input="h", output="h_next", dtype="float32", shape=(1,), batch_axis=0
            ),
        ),
        time_axis=False,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    repository = tmp_path_factory.mktemp("models")
    save(*exploding(), Path(repository, "sick/1/model.onnx"))
    with ServerProcess(str(repository)) as server:
        yield server


def test_they_are_counted_by_model_and_logged_once(server: ServerProcess, connect: Connect) -> None:
    client = connect(server.target)
    before = server.metric(COUNTED, model="sick")
    with client.stream("sick") as sick, client.stream("sick") as well:
        for _ in range(5):
            sick.step(1)
            assert well.step(0)["next"].tolist() == [0, 0, 0, 0]
        assert np.isnan(sick.step(1)["next"][0])
    assert server.metric(COUNTED, model="sick") - before == 4
    assert len(server.lines("predictions are not finite", model="sick", level="warning")) == 1


@pytest.mark.parametrize("temperature", [0, 0.8])
@pytest.mark.parametrize(
    "choice", [elman.Raw("next"), elman.Probabilities("next"), elman.Top("next", 3)]
)
def test_nothing_is_generated_from_them(
    server: ServerProcess, connect: Connect, choice: elman.OutputChoice, temperature: float
) -> None:
    client = connect(server.target)
    with client.stream("sick", outputs=choice) as stream:
        generated = stream.generate([1, 1, 1], length=6, temperature=temperature)
        with pytest.raises(elman.ServerError, match=r"no symbol a probability above 0: .* nan"):
            next(generated)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_they_are_printed_as_what_they_are(server: ServerProcess, options: list[str]) -> None:
    command = [sys.executable, "-c", "from elman.cli import main; main()", "stream", "sick"]
    done = subprocess.run(
        [*command, "--target", server.target, "--top", "2", *options],
        input="1\n1\n1\n",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    last = done.stdout.splitlines()[-1]
    if options:
        entries = json.loads(last, parse_constant=pytest.fail)["outputs"]["next"]
        assert [entry["probability"] for entry in entries] == ["NaN", "NaN"]
    else:
        assert last.count(" nan") == 2


@pytest.mark.parametrize("choice", [elman.Raw("next"), elman.Top("next", 3)])
def test_they_have_no_best_alternatives(
    server: ServerProcess, connect: Connect, choice: elman.OutputChoice
) -> None:
    client = connect(server.target)
    with client.stream("sick", outputs=choice) as stream:
        prediction = [stream.step(1) for _ in range(3)][-1]
    with pytest.raises(elman.ServerError, match="'next' is NaN at position 2"):
        prediction.top(2)
    assert repr(prediction).startswith("Prediction(position=2, next=")
