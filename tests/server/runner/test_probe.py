"""The probe finds out how a model may be run before anybody depends on it."""

from dataclasses import replace
from pathlib import Path

import pytest
from onnx import helper

from elman_server import modelfile
from elman_server.engine.scheduler import Chunking
from elman_server.errors import ModelLoadError
from elman_server.runner.model import StepModel
from elman_server.runner.probe import Probe, StepCost, probe
from tests.server.runner.oddmodels import (
    Built,
    blind_to_lengths,
    constant,
    insert,
    last_element_only,
    one_element_only,
    one_row_only,
    one_row_out,
)
from tests.stepmodels import Shape, leaky, lstm, save


def probed(built: Built, path: Path, max_batch_size: int = 16) -> Probe:
    model = StepModel(
        modelfile.read(save(*built, path / "model.onnx")),
        threads=1,
        providers=("CPUExecutionProvider",),
    )
    return probe(model, max_batch_size=max_batch_size, max_chunk=16)


@pytest.mark.parametrize(
    ("built", "chunking"),
    [
        (lstm(Shape()), Chunking.RAGGED),
        (lstm(Shape(layers=2)), Chunking.RAGGED),
        (lstm(Shape(lengths=False)), Chunking.EQUAL),
        (lstm(Shape(time_axis=False, lengths=False)), Chunking.SINGLE),
        (leaky(), Chunking.SINGLE),
        (blind_to_lengths(), Chunking.EQUAL),
        (one_element_only(), Chunking.SINGLE),
        (last_element_only(), Chunking.SINGLE),
    ],
    ids=[
        "lengths",
        "two layers",
        "no lengths",
        "no time axis",
        "leaky",
        "lengths that are not heeded",
        "one element only",
        "one prediction a chunk",
    ],
)
def test_it_finds_the_most_that_is_exact(built: Built, chunking: Chunking, tmp_path: Path) -> None:
    found = probed(built, tmp_path)
    assert (found.chunking, found.dependent_rows) == (chunking, "")


def test_it_finds_rows_that_affect_one_another(tmp_path: Path) -> None:
    found = probed(leaky(width=3, mixes_rows=True), tmp_path)
    assert found.dependent_rows.startswith("in a batch of 2 results differ from those alone by ")


def test_it_finds_a_graph_that_takes_one_row_only(tmp_path: Path) -> None:
    found = probed(one_row_only(), tmp_path)
    assert found.batch_failure.startswith("a batch of 2 failed: ")


def test_it_finds_a_graph_that_gives_one_row_only(tmp_path: Path) -> None:
    assert probed(one_row_out(), tmp_path).batch_failure != ""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_any_batch_size_can_be_probed(size: int, tmp_path: Path) -> None:
    found = probed(lstm(Shape()), tmp_path, max_batch_size=size)
    assert (found.chunking, found.dependent_rows) == (Chunking.RAGGED, "")


def test_rows_that_are_never_together_can_not_affect_one_another(tmp_path: Path) -> None:
    assert probed(leaky(mixes_rows=True), tmp_path, max_batch_size=1).dependent_rows == ""


def test_a_model_without_a_state_is_a_model(tmp_path: Path) -> None:
    model, spec = leaky()
    graph = model.graph
    del graph.node[:], graph.input[1], graph.output[1], graph.initializer[:]
    graph.node.append(helper.make_node("Identity", ["x"], ["y"]))
    found = probed((model, replace(spec, states=())), tmp_path)
    assert (found.chunking, found.dependent_rows) == (Chunking.SINGLE, "")


def test_a_model_that_can_not_run_is_refused(tmp_path: Path) -> None:
    model, spec = leaky(width=3)
    constant((model, spec), "seven rows", 7, 3)
    insert((model, spec), 0, helper.make_node("Reshape", ["x", "seven rows"], ["x seven"]))
    model.graph.node[2].input[1] = "x seven"
    with pytest.raises(ModelLoadError, match=r"^a step of one element failed: "):
        probed((model, spec), tmp_path)


def test_a_step_costs_more_with_more_to_do(tmp_path: Path) -> None:
    cost = probed(lstm(Shape(hidden=64)), tmp_path).cost
    assert 0 < cost.seconds(1, 1) <= cost.seconds(16, 1) <= cost.seconds(16, 16)


def test_the_cost_of_a_step_counts_time_and_elements() -> None:
    cost = StepCost(base=1.0, per_time=0.5, per_element=0.25)
    assert cost.seconds(rows=4, chunk=2) == 1.0 + 2 * 0.5 + 8 * 0.25
