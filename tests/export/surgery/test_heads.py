"""A head that reads the last step answers at every step, and as it would have at the end."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.export.surgery.conftest import Lift
from tests.export.surgery.graphs import (
    FEATURES,
    HIDDEN,
    OUT,
    Graph,
    batch_major,
    linear,
    time_major,
)


def _gathered(graph: Graph, y: str) -> str:
    return graph.add("Gather", [batch_major(graph, y), graph.constant(np.array(-1))], axis=1)


def _gathered_before_squeezing(graph: Graph, y: str) -> str:
    last = graph.add("Gather", [y, graph.constant(np.array(-1))], axis=0)
    return graph.add("Squeeze", [last, graph.constant(np.array([0]))])


def _gathered_by_its_number(graph: Graph, y: str) -> str:
    """`out[:, out.shape[1] - 1]`, as a tracing exporter writes it."""
    flat = batch_major(graph, y)
    length = graph.add("Gather", [graph.add("Shape", [flat]), graph.constant(np.array(1))])
    last = graph.add("Sub", [length, graph.constant(np.array(1))])
    return graph.add("Gather", [flat, last], axis=1)


def _sliced(graph: Graph, y: str) -> str:
    numbers = [graph.constant(np.array([number])) for number in (-1, 2**63 - 1, 1)]
    last = graph.add("Slice", [batch_major(graph, y), *numbers])
    return graph.add("Squeeze", [last, graph.constant(np.array([1]))])


def _pooled_by_gemm(graph: Graph, y: str) -> str:
    last = _gathered(graph, y)
    return graph.add("Gemm", [last, graph.weight(HIDDEN, HIDDEN), graph.weight(HIDDEN)])


@pytest.mark.parametrize(
    "pick",
    [_gathered, _gathered_before_squeezing, _gathered_by_its_number, _sliced, _pooled_by_gemm],
)
def test_wherever_the_last_step_is_picked(pick: Callable[[Graph, str], str], lift: Lift) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    y = graph.recurrent("GRU", time_major(graph, "x"))
    linear(graph, pick(graph, y), "y")
    graph.output("y", ["batch", OUT])
    report = lift(graph)
    assert report.spec.time_axis
    assert report.spec.outputs[0].shape == (OUT,)
    assert report.proof.exact


@pytest.mark.parametrize("operator", ["GRU", "LSTM", "RNN"])
def test_a_head_on_the_final_states_of_two_layers(operator: str, lift: Lift) -> None:
    """`torch.cat([h_n[0], h_n[1]], -1)`."""
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    more = [""] if operator == "LSTM" else []
    y = graph.recurrent(operator, time_major(graph, "x"), made=["", "h0", *more])
    flat = graph.add("Squeeze", [y, graph.constant(np.array([1]))])
    graph.recurrent(operator, flat, HIDDEN, made=["", "h1", *more])
    stacked = graph.add("Concat", ["h0", "h1"], axis=0)
    parts = [
        graph.add("Gather", [stacked, graph.constant(np.array(layer))], axis=0) for layer in (0, 1)
    ]
    both = graph.add("Concat", parts, axis=1)
    linear(graph, both, "y", size=2 * HIDDEN)
    graph.output("y", ["batch", OUT])
    report = lift(graph)
    assert report.spec.time_axis
    assert report.proof.exact


def test_a_softmax_over_classes_is_no_softmax_over_time(lift: Lift) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    y = graph.recurrent("GRU", time_major(graph, "x"))
    scores = linear(graph, _gathered(graph, y), "")
    graph.add("Softmax", [scores], "y", axis=1)
    graph.output("y", ["batch", OUT])
    assert lift(graph).spec.time_axis


def test_a_head_on_the_cell_takes_one_element_a_step(lift: Lift) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    graph.recurrent("LSTM", time_major(graph, "x"), made=["", "", "c"])
    cell = graph.add("Squeeze", ["c", graph.constant(np.array([0]))])
    linear(graph, cell, "y")
    graph.output("y", ["batch", OUT])
    report = lift(graph)
    assert not report.spec.time_axis
    assert report.proof.exact


def test_a_head_without_a_batch_axis_takes_one_element_a_step(lift: Lift) -> None:
    graph = Graph()
    graph.input("x", ["time", FEATURES])
    rows = graph.add("Unsqueeze", ["x", graph.constant(np.array([1]))])
    graph.recurrent("GRU", rows, made=["", "h"])
    flat = graph.add("Squeeze", ["h", graph.constant(np.array([0, 1]))])
    linear(graph, flat, "y")
    graph.output("y", [OUT])
    report = lift(graph, lambda x: x)
    assert not report.spec.time_axis
    assert not report.spec.batched


def test_one_output_for_each_step_and_one_for_the_sequence_so_far(lift: Lift) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    y = graph.recurrent("GRU", time_major(graph, "x"))
    linear(graph, batch_major(graph, y), "y")
    linear(graph, _gathered(graph, y), "verdict")
    graph.output("y", ["batch", "time", OUT])
    graph.output("verdict", ["batch", OUT])
    report = lift(graph)
    assert [output.name for output in report.spec.outputs] == ["y", "verdict"]
    assert report.spec.time_axis
    assert report.proof.exact


def test_a_head_that_picks_each_rows_last_element_by_its_length(lift: Lift) -> None:
    """`out[arange(batch), lengths - 1]`."""
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    graph.input("n", ["batch"], 7)
    short = graph.add("Cast", ["n"], to=6)
    y = graph.recurrent("GRU", time_major(graph, "x"), lengths=short)
    flat = batch_major(graph, y)
    last = graph.add("Sub", ["n", graph.constant(np.array([1]))])
    column = graph.add("Unsqueeze", [last, graph.constant(np.array([1]))])
    picked = graph.add("GatherND", [flat, column], batch_dims=1)
    linear(graph, picked, "y")
    graph.output("y", ["batch", OUT])
    report = lift(graph)
    assert not report.spec.time_axis
    assert report.proof.exact
