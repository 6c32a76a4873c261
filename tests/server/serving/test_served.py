"""A model is served as its probe found it, or says why it is not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from onnx import ModelProto, helper

from elman_server.config import ServerConfig
from elman_server.engine.limits import Chunking, StepLimits
from elman_server.errors import ModelLoadError, ModelNotFound
from elman_server.model.repository import ModelSource
from elman_server.model.spec import ModelSpec
from elman_server.runner.probe import BeginningCost, StepCost
from elman_server.serving.loading.loaded import LoadedModel
from elman_server.serving.served import Catalog
from tests.stepmodels import (
    Conditioned,
    Shape,
    leaky,
    lstm,
    one_row,
    save,
    save_conditioned,
    tilted,
)


def config(**values: Any) -> ServerConfig:
    return ServerConfig(**{"demo": True, "max_batch_size": 8, **values})


def load(path: Path, built: tuple[ModelProto, ModelSpec]) -> LoadedModel:
    save(*built, path / "model.onnx")
    return LoadedModel.load(ModelSource(name="m", version="1", path=path / "model.onnx"), config())


def load_conditioned(path: Path, built: Conditioned, **settings: Any) -> LoadedModel:
    save_conditioned(built, path / "model.onnx")
    source = ModelSource(name="m", version="1", path=path / "model.onnx")
    return LoadedModel.load(source, config(**settings))


def test_the_limits_are_those_of_the_settings(tmp_path: Path) -> None:
    loaded = load(tmp_path, lstm(Shape()))
    settings = config(max_batch_size=7, max_step_elements=100, max_chunk=20)
    assert loaded.limits(settings) == StepLimits(
        max_batch_size=7,
        max_step_elements=100,
        max_chunk=20,
        chunking=Chunking.RAGGED,
        max_init_batch_size=7,
    )


@pytest.mark.parametrize(("allowed", "size"), [(False, 1), (True, 8)])
def test_a_model_whose_rows_interact_is_not_batched_unless_allowed(
    allowed: bool, size: int, tmp_path: Path
) -> None:
    loaded = load(tmp_path, leaky(mixes_rows=True))
    assert loaded.limits(config(allow_dependent_rows=allowed)).max_batch_size == size


def test_a_model_that_takes_one_row_is_not_batched(tmp_path: Path) -> None:
    loaded = load(tmp_path, one_row(lstm(Shape())))
    assert loaded.limits(config(allow_dependent_rows=True)).max_batch_size == 1


def test_sessions_begin_together_for_no_longer_than_a_step_takes(tmp_path: Path) -> None:
    loaded = load_conditioned(tmp_path, tilted())
    cost = StepCost(base=0.001, per_time=0.0, per_element=0.001)

    def most(beginning: BeginningCost) -> int:
        found = replace(loaded.probe, cost=cost, beginning=beginning)
        # The longest step is of 8 rows, 9 ms.
        return replace(loaded, probe=found).limits(config()).max_init_batch_size

    assert most(BeginningCost(per_row=1.0)) == 1
    assert most(BeginningCost(together=True, base=0.001, per_row=0.002)) == 4
    assert most(BeginningCost(together=True, per_row=1e-6)) == 8


def test_large_contexts_are_not_batched_beyond_what_memory_takes(tmp_path: Path) -> None:
    loaded = load_conditioned(tmp_path, tilted())
    start, tilt = loaded.file.spec.contexts
    large = replace(start, shape=(4 * 1024 * 1024,))
    spec = replace(loaded.file.spec, contexts=(large, tilt))
    limits = replace(loaded, file=replace(loaded.file, spec=spec)).limits(config())
    assert (limits.max_batch_size, limits.max_init_batch_size) == (3, 3)


def test_contexts_that_no_message_can_hold_are_told_at_load(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load_conditioned(tmp_path, tilted(width=800), max_message_bytes=4096)
    assert str(caught.value) == (
        f"{tmp_path / 'model.onnx'}: a session's contexts take 6400 bytes; with max_message_bytes "
        "4096, allowed are 3072"
    )


@pytest.mark.parametrize("built", [lstm(Shape()), leaky()], ids=["lstm", "leaky"])
def test_a_model_that_does_not_load_is_named(
    built: tuple[ModelProto, ModelSpec], tmp_path: Path
) -> None:
    model, spec = built
    wrong = replace(spec, outputs=(replace(spec.outputs[0], name="missing"),))
    with pytest.raises(ModelLoadError) as caught:
        load(tmp_path, (model, wrong))
    assert str(caught.value).startswith(
        f"{tmp_path / 'model.onnx'}: the spec names output 'missing'; the graph has "
    )


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ModelLoadError) as caught:
        LoadedModel.load(ModelSource(name="m", version="1", path=path), config())
    assert str(caught.value) == f"{path}: not an ONNX file, or a damaged one"


def test_an_onnx_file_with_weights_elsewhere_does_not_load(tmp_path: Path) -> None:
    model, spec = leaky()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = weight.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    with pytest.raises(ModelLoadError, match=r"weights\.bin"):
        load(tmp_path, (model, spec))


def test_an_empty_catalog_says_so() -> None:
    with pytest.raises(ModelNotFound, match=r"^model 'm' is unknown; ready are: none yet$"):
        Catalog().get("m")


def test_a_model_without_weights_is_a_model(tmp_path: Path) -> None:
    model, spec = leaky()
    model.graph.node[0].CopyFrom(helper.make_node("Identity", ["h"], ["decayed"]))
    assert load(tmp_path, (model, spec)).probe.chunking is Chunking.SINGLE
