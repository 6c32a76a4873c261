"""The probe finds out how a model may be run before anybody depends on it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from elman_server.engine.limits import Chunking
from elman_server.errors import ModelLoadError
from elman_server.model import modelfile
from elman_server.runner.model import StepModel
from elman_server.runner.probe import BeginningCost, Probe, StepCost, probe
from tests.server.runner.oddmodels import (
    Built,
    beginners_one_by_one,
    beginners_that_mix,
    blind_to_lengths,
    constant,
    insert,
    last_element_only,
    one_element_only,
    one_row_only,
    one_row_out,
)
from tests.stepmodels import (
    Conditioned,
    Shape,
    caption,
    leaky,
    lstm,
    one_row,
    save,
    save_conditioned,
    tilted,
)


def load(path: Path) -> StepModel:
    return StepModel(modelfile.read(path), threads=1, providers=("CPUExecutionProvider",))


def probed(built: Built, path: Path, max_batch_size: int = 16) -> Probe:
    model = load(save(*built, path / "model.onnx"))
    return probe(model, max_batch_size=max_batch_size, max_chunk=16)


def probed_with_contexts(built: Conditioned, path: Path, max_batch_size: int = 16) -> Probe:
    model = load(save_conditioned(built, path / "model.onnx"))
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


# Models that take one row only, and say so.


@pytest.mark.parametrize(
    ("built", "chunking"),
    [
        (one_row(lstm(Shape())), Chunking.RAGGED),
        (one_row(lstm(Shape(lengths=False))), Chunking.EQUAL),
        (one_row(lstm(Shape(time_axis=False, lengths=False))), Chunking.SINGLE),
        (one_row(leaky()), Chunking.SINGLE),
    ],
    ids=["lengths", "no lengths", "no time axis", "leaky"],
)
def test_larger_batches_are_not_tried_where_the_spec_rules_them_out(
    built: Built, chunking: Chunking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = set()
    step = StepModel.step

    def watched(self: StepModel, elements: Any, *rest: Any) -> Any:
        sizes.add(len(elements))
        return step(self, elements, *rest)

    monkeypatch.setattr(StepModel, "step", watched)
    found = probed(built, tmp_path)
    assert sizes == {1}
    assert (found.chunking, found.batch_failure) == (chunking, "its spec says so")
    assert found.dependent_rows == ""


# Models that take contexts.


@pytest.mark.parametrize(
    ("shape", "chunking"),
    [
        (Shape(), Chunking.RAGGED),
        (Shape(layers=2), Chunking.RAGGED),
        (Shape(lengths=False), Chunking.EQUAL),
        (Shape(time_axis=False, lengths=False), Chunking.SINGLE),
    ],
    ids=["lengths", "two layers", "no lengths", "no time axis"],
)
def test_it_finds_the_most_that_is_exact_with_contexts(
    shape: Shape, chunking: Chunking, tmp_path: Path
) -> None:
    found = probed_with_contexts(caption(shape), tmp_path)
    assert (found.chunking, found.batch_failure, found.dependent_rows) == (chunking, "", "")


def test_sessions_that_do_not_affect_one_another_begin_together(tmp_path: Path) -> None:
    assert probed_with_contexts(tilted(width=3), tmp_path).beginning.together


@pytest.mark.parametrize(
    "built", [beginners_that_mix(), beginners_one_by_one()], ids=["mix", "one"]
)
def test_sessions_that_would_affect_one_another_do_not(built: Conditioned, tmp_path: Path) -> None:
    found = probed_with_contexts(built, tmp_path)
    assert not found.beginning.together
    assert found.beginning.seconds(2) == 2 * found.beginning.seconds(1) > 0
    # How they begin has nothing to do with how they step.
    assert (found.batch_failure, found.dependent_rows) == ("", "")


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_any_batch_size_can_be_probed_with_contexts(size: int, tmp_path: Path) -> None:
    assert probed_with_contexts(caption(), tmp_path, max_batch_size=size).dependent_rows == ""


def test_a_step_that_mixes_the_contexts_of_its_rows_is_found(tmp_path: Path) -> None:
    model, spec, initial = tilted()
    tilting = next(node for node in model.graph.node if "tilt" in node.input)
    tilting.input[1] = "all tilts"
    mean = helper.make_node("ReduceMean", ["tilt"], ["all tilts"], axes=[0], keepdims=1)
    insert((model, spec), 0, mean)
    found = probed_with_contexts((model, spec, initial), tmp_path)
    assert found.dependent_rows.startswith("in a batch of 2 results differ from those alone by ")


def test_a_model_with_contexts_for_its_steps_alone(tmp_path: Path) -> None:
    model, spec, _ = tilted()
    spec = replace(spec, contexts=spec.step_contexts, initialized=())
    found = probed((model, spec), tmp_path)
    assert (found.chunking, found.dependent_rows) == (Chunking.SINGLE, "")
    assert found.beginning.together


def test_an_initial_state_network_that_fails_is_refused(tmp_path: Path) -> None:
    model, spec, initial = caption()
    for table in initial.graph.initializer:
        if "styles" in table.name:
            # Fewer than the ids 0 and 1, which are tried.
            table.CopyFrom(numpy_helper.from_array(np.zeros((1, 16), np.float32), table.name))
    with pytest.raises(ModelLoadError, match=r"^the initial-state network failed: ") as caught:
        probed_with_contexts((model, spec, initial), tmp_path)
    assert "\n" not in str(caught.value)


def test_an_initial_state_of_another_shape_is_refused(tmp_path: Path) -> None:
    model, spec, initial = tilted(width=3)
    contexts = (replace(spec.contexts[0], shape=(1, 3)), spec.contexts[1])
    for value in (*initial.graph.input, *initial.graph.output):
        del value.type.tensor_type.shape.dim[:]
    with pytest.raises(ModelLoadError) as caught:
        probed_with_contexts((model, replace(spec, contexts=contexts), initial), tmp_path)
    assert str(caught.value) == (
        "the initial-state network failed: it gives state 'h' in shape [1, 1, 3] for 1 rows; the "
        "spec says [1, 3]"
    )


def test_the_cost_of_a_beginning_tells_how_many_fit_into_a_time() -> None:
    cost = BeginningCost(together=True, base=1.0, per_row=0.5)
    assert [cost.seconds(1), cost.seconds(10)] == [1.5, 6.0]
    assert [cost.rows(seconds, 8) for seconds in (0.0, 1.6, 3.0, 100.0)] == [1, 1, 4, 8]
    assert BeginningCost().rows(0.0, 8) == 8


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
