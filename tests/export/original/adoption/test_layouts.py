"""Wherever a graph has its rows and steps, a client sees elements, one after another."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from elman_export.errors import ExportError
from elman_export.interface import features, logits, probabilities, tokens
from elman_export.proof.stepmodel import StepModel
from elman_export.writer import Report
from tests.export.original.adoption.graphs import (
    ANSWERS,
    FEATURES,
    HIDDEN,
    Dims,
    Graph,
    adopted,
    answers,
    lstm,
)
from tests.oracle import Oracle

X = np.random.default_rng(3).standard_normal((9, FEATURES)).astype(np.float32)


def said(report: Report, x: np.ndarray = X, name: str = "y") -> np.ndarray:
    """What a session says, in plain ONNX Runtime by the spec."""
    return np.array([outputs[name] for outputs in Oracle(report.path).run(x)])


def is_the_lstm(report: Report) -> bool:
    return bool(np.allclose(said(report), answers(X), atol=1e-5))


@pytest.mark.parametrize("batch", ["batch", None, 1, 0])
@pytest.mark.parametrize("order", ["btf", "tbf", "bf", "buf", "ubf", "butf", "tubf", "bft", "fbt"])
def test_rows_and_steps_are_found_in_any_order(
    order: str, batch: str | int | None, tmp_path: Path
) -> None:
    report = adopted(lstm(order, batch=batch), tmp_path)
    assert report.spec.batched
    assert report.spec.time_axis is ("t" in order)
    assert report.spec.input.shape == (FEATURES,)
    assert report.spec.outputs[0].shape == (ANSWERS,)
    assert report.proof.exact
    assert is_the_lstm(report)


@pytest.mark.parametrize("order", ["tf", "f", "uf", "utf"])
def test_a_graph_of_one_row_is_served_unbatched(order: str, tmp_path: Path) -> None:
    report = adopted(lstm(order), tmp_path)
    assert not report.spec.batched
    assert report.spec.time_axis is ("t" in order)
    assert is_the_lstm(report)


def test_rows_that_a_constant_fixes_are_not_opened(tmp_path: Path) -> None:
    graph = lstm("bf", batch=1)
    graph.node("Reshape", f"y {graph.constant('one', [1, ANSWERS])}", "flat")
    graph.gives("flat", [1, ANSWERS])
    report = adopted(graph, tmp_path, outputs=[logits("flat")])
    assert not report.spec.batched
    assert np.allclose(said(report, name="flat"), answers(X), atol=1e-5)


def test_several_steps_go_through_at_once(tmp_path: Path) -> None:
    report = adopted(lstm("tbf"), tmp_path)
    model = StepModel(report.path.read_bytes(), report.spec)
    answer = model.run(X[None], [[4, 1, 4]])
    np.testing.assert_allclose(answer.outputs["y"][0], answers(X), atol=1e-5)


def test_lengths_of_rows_are_taken(tmp_path: Path) -> None:
    report = adopted(lstm("btf", lengths=True), tmp_path)
    assert report.spec.lengths is not None
    assert {each.way for each in report.proof.comparisons} >= {"in ragged batches"}
    assert is_the_lstm(report)


def test_states_in_one_tensor_are_one_state(tmp_path: Path) -> None:
    names = ("x", "state", "", "y", "stateN", "")
    report = adopted(lstm("bf", names=names, packed=True), tmp_path)
    (state,) = report.spec.states
    assert (state.shape, state.batch_axis) == ((2, HIDDEN), 1)
    assert is_the_lstm(report)


@pytest.mark.parametrize(
    ("state", "answered"),
    [
        ([None, None, HIDDEN], None),
        ([1, "batch", None], None),
        (["layers", "batch", "hidden"], None),
        ([1, None, HIDDEN], ["batch", "time", "whatever"]),
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_what_is_declared_too_little_is_found_by_running(
    state: Dims, answered: Dims | None, tmp_path: Path
) -> None:
    report = adopted(lstm("btf", state=state, answered=answered), tmp_path)
    assert report.spec.batched
    assert [each.shape for each in report.spec.states] == [(1, HIDDEN)] * 2
    assert is_the_lstm(report)


def test_an_output_that_is_declared_wrong_is_not_believed(tmp_path: Path) -> None:
    report = adopted(lstm("btf", answered=["n", "m", 77]), tmp_path)
    assert report.spec.outputs[0].shape == (ANSWERS,)


def test_a_state_without_rows_is_served_unbatched(tmp_path: Path) -> None:
    graph = lstm("f", names=("x", "h0", "c0", "y", "hn", "cn"), state=[1, 1, HIDDEN])
    graph.takes("memory", [FEATURES])
    graph.node("Add", "memory x", "memory_out")
    graph.gives("memory_out", [FEATURES])
    report = adopted(graph, tmp_path)
    memory = next(state for state in report.spec.states if state.name == "memory")
    assert (memory.shape, memory.batch_axis, report.spec.batched) == ((FEATURES,), 0, False)
    assert np.allclose(said(report), answers(X), atol=1e-5)


def test_a_counter_is_a_state_like_others(tmp_path: Path) -> None:
    graph = lstm("bf", batch=1)
    graph.takes("step", [], TensorProto.INT64)
    graph.node("Add", f"step {graph.constant('one', np.int64(1))}", "step_out")
    graph.gives("step_out", [], TensorProto.INT64)
    graph.node("Cast", "step", "count", to=TensorProto.FLOAT)
    graph.node("Mul", f"count {graph.constant('zeros', np.zeros((1, 1), np.float32))}", "nothing")
    graph.node("Add", "count nothing", "counted")
    graph.gives("counted", [1, 1])
    report = adopted(graph, tmp_path)
    step = next(state for state in report.spec.states if state.name == "step")
    assert (step.shape, step.dtype, report.spec.batched) == ((), "int64", False)
    assert said(report, name="counted").tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_numbers_of_double_precision(tmp_path: Path) -> None:
    graph = Graph()
    for name in ("x", "h"):
        graph.takes(name, ["n", 2], TensorProto.DOUBLE)
    graph.node("Mul", f"h {graph.constant('half', 0.5)}", "decayed")
    graph.node("Add", "decayed x", "h_out")
    graph.node("Identity", "h_out", "y")
    for name in ("y", "h_out"):
        graph.gives(name, ["n", 2], TensorProto.DOUBLE)
    report = adopted(graph, tmp_path)
    assert report.spec.input.dtype == report.spec.states[0].dtype == "float64"
    assert said(report, np.ones((3, 2))).tolist() == [[1, 1], [1.5, 1.5], [1.75, 1.75]]


def embedding(kind: int = TensorProto.INT64) -> Graph:
    """Ids that are looked up in a table and added up."""
    graph = Graph()
    graph.takes("ids", ["batch"], kind)
    graph.takes("sum", ["batch", 2])
    graph.constant("table", np.arange(10, dtype=np.float32).reshape(5, 2))
    graph.node("Gather", "table ids", "row")
    graph.node("Add", "sum row", "sum_out")
    graph.node("Identity", "sum_out", "y")
    graph.gives("sum_out", ["batch", 2])
    graph.gives("y", ["batch", 2])
    return graph


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_how_many_ids_there_are_is_seen_in_the_table(kind: int, tmp_path: Path) -> None:
    report = adopted(embedding(kind), tmp_path)
    assert report.spec.input.size == 5
    assert said(report, np.array([4, 4])).tolist() == [[8, 9], [16, 18]]


def test_where_it_is_not_seen_it_is_asked_for(tmp_path: Path) -> None:
    graph = embedding()
    graph.node("Identity", "table", "same")
    graph.nodes[0].input[0] = "same"
    graph.nodes.insert(0, graph.nodes.pop())
    with pytest.raises(ExportError, match="--input tokens:SIZE"):
        adopted(graph, tmp_path)
    assert adopted(graph, tmp_path, input=tokens(3)).spec.input.size == 3


def test_elements_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="takes int64, so its elements are no features"):
        adopted(embedding(), tmp_path, input=features(2))


def test_the_last_answer_of_a_sequence_becomes_that_of_each_step(tmp_path: Path) -> None:
    graph = lstm("btf")
    graph.node("Gather", f"y {graph.constant('last', np.int64(-1))}", "end", axis=1)
    graph.gives("end", ["batch", ANSWERS])
    report = adopted(graph, tmp_path, outputs=[probabilities("end")])
    assert not report.spec.time_axis
    assert np.allclose(said(report, name="end"), answers(X), atol=1e-5)


def test_an_output_of_one_number_is_a_scalar_unless_it_has_a_label(tmp_path: Path) -> None:
    graph = lstm("bf")
    graph.node("ReduceSum", f"y {graph.constant('axis', [1])}", "sum", keepdims=1)
    graph.gives("sum", ["batch", 1])
    assert adopted(graph, tmp_path, outputs=[probabilities("sum")]).spec.outputs[0].shape == ()
    labelled = probabilities("sum", labels=["speech"])
    assert adopted(graph, tmp_path, outputs=[labelled]).spec.outputs[0].shape == (1,)


def test_a_state_may_be_the_prediction_too(tmp_path: Path) -> None:
    report = adopted(lstm("btf"), tmp_path, outputs=[logits("hn")])
    assert [out.name for out in report.spec.outputs] == ["hn"]
    assert report.spec.states[0].output == "hn.next"
