"""What no stream can compute is refused, naming the node and the reason; nothing is written."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from elman_export import export_graph
from elman_export.errors import ExportError, ProofFailed, UnsupportedGraph
from tests.export.surgery.conftest import Refused
from tests.export.surgery.graphs import (
    FEATURES,
    HIDDEN,
    TIME,
    Graph,
    batch_major,
    behind_a_layer,
    linear,
    per_step,
    time_major,
)


def test_bidirectional_layers(refused: Refused) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    y = graph.recurrent("LSTM", time_major(graph, "x"), direction="bidirectional")
    both = graph.add("Transpose", [y], perm=[2, 0, 1, 3])
    flat = graph.add("Reshape", [both, graph.constant(np.array([0, 0, 2 * HIDDEN]))])
    linear(graph, flat, "y", size=2 * HIDDEN)
    graph.output("y")
    message = refused(graph)
    assert message == (
        "LSTM 'lstm_1' is bidirectional: it reads each sequence from its end too, and a stream has "
        "no end to read from"
    )


def test_reversed_layers(refused: Refused) -> None:
    message = refused(per_step("GRU", direction="reverse"))
    assert message.startswith("GRU 'gru_1' reads each sequence from its end")


def test_elements_that_are_read_backwards(refused: Refused) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    numbers = [graph.constant(np.array([number])) for number in (-1, -(2**63), 1, -1)]
    back = graph.add("Slice", ["x", *numbers], name="flip")
    y = graph.recurrent("GRU", time_major(graph, back))
    linear(graph, batch_major(graph, y), "y")
    graph.output("y")
    assert refused(graph).startswith("Slice 'flip' reverses the sequence")


def test_a_sequence_that_is_shifted(refused: Refused) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    pads = graph.constant(np.array([0, 1, 0, 0, -1, 0]))
    shifted = graph.add("Pad", ["x", pads], name="shift")
    y = graph.recurrent("GRU", time_major(graph, shifted))
    linear(graph, batch_major(graph, y), "y")
    graph.output("y")
    assert refused(graph) == "Pad 'shift' pads the sequence"


def test_steps_that_are_dropped(refused: Refused) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    y = graph.recurrent("GRU", time_major(graph, "x"))
    numbers = [graph.constant(np.array([number])) for number in (0, -1, 1)]
    graph.add("Slice", [batch_major(graph, y), *numbers], "y", name="past")
    graph.output("y")
    assert refused(graph).startswith("Slice 'past' picks some of the steps (0 to -1)")


def test_a_head_that_reads_the_first_step(refused: Refused) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    y = graph.recurrent("GRU", time_major(graph, "x"))
    first = graph.add(
        "Gather", [batch_major(graph, y), graph.constant(np.array(0))], axis=1, name="first"
    )
    linear(graph, first, "y")
    graph.output("y")
    assert refused(graph).startswith("Gather 'first' picks some of the steps (index [0])")


def test_a_sequence_that_is_joined_to_another(refused: Refused) -> None:
    graph, hidden = behind_a_layer()
    graph.add("Concat", [hidden, hidden], "y", name="joined", axis=1)
    graph.output("y")
    assert refused(graph) == "Concat 'joined' joins other steps onto the sequence"


def test_an_initial_state_that_is_computed_from_the_sequence(refused: Refused) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    mean = graph.add("ReduceMean", ["x"], axes=[1], keepdims=0)
    start = graph.add("MatMul", [mean, graph.weight(FEATURES, HIDDEN)])
    start = graph.add("Unsqueeze", [start, graph.constant(np.array([0]))])
    y = graph.recurrent("GRU", time_major(graph, "x"), h=start)
    linear(graph, batch_major(graph, y), "y")
    graph.output("y")
    assert refused(graph) == "ReduceMean 'reducemean_0' pools over time"


def test_an_initial_state_that_is_picked_from_the_sequence(refused: Refused) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    last = graph.add("Gather", ["x", graph.constant(np.array(-1))], axis=1)
    start = graph.add("MatMul", [last, graph.weight(FEATURES, HIDDEN)])
    start = graph.add("Unsqueeze", [start, graph.constant(np.array([0]))])
    y = graph.recurrent("GRU", time_major(graph, "x"), h=start)
    linear(graph, batch_major(graph, y), "y")
    graph.output("y")
    message = refused(graph)
    assert message.startswith("GRU 'gru_4' starts from a state (h) that depends on the sequence")


def test_a_loop_that_was_unrolled(refused: Refused) -> None:
    graph = Graph()
    graph.input("x", [1, TIME, FEATURES])
    w, r = graph.weight(FEATURES, HIDDEN), graph.weight(HIDDEN, HIDDEN, name="R")
    h = graph.constant(np.zeros((1, HIDDEN), np.float32))
    for step in range(TIME):
        x = graph.add("Gather", ["x", graph.constant(np.array(step))], axis=1)
        into = graph.add("MatMul", [x, w])
        h = graph.add("Tanh", [graph.add("Add", [into, graph.add("MatMul", [h, r])])])
    linear(graph, h, "y")
    graph.output("y")
    message = refused(graph)
    assert f"is used {TIME} times: a loop over time that was unrolled" in message


def test_a_loop_that_was_unrolled_with_a_weight_for_each_step(refused: Refused) -> None:
    graph = Graph()
    graph.input("x", [2, 3, FEATURES])
    steps = [f"x{step}" for step in range(3)]
    graph.add("Split", ["x"], steps, name="split", axis=1)
    h = graph.constant(np.zeros((2, 1, HIDDEN), np.float32))
    for step in steps:
        into = graph.add("MatMul", [step, graph.weight(FEATURES, HIDDEN)])
        again = graph.add("MatMul", [h, graph.weight(HIDDEN, HIDDEN)])
        h = graph.add("Tanh", [graph.add("Add", [into, again])])
    linear(graph, h, "y")
    graph.output("y")
    assert refused(graph).startswith(
        "no RNN, LSTM or GRU operator, and Split 'split' may split the sequence into steps"
    )


def _loop_body() -> onnx.GraphProto:
    info = helper.make_tensor_value_info
    return helper.make_graph(
        [
            helper.make_node("Add", ["h_in", "x_t"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["h_out"]),
            helper.make_node("Identity", ["h_out"], ["y_t"]),
        ],
        "body",
        [info("h_in", TensorProto.FLOAT, None), info("x_t", TensorProto.FLOAT, None)],
        [info("h_out", TensorProto.FLOAT, None), info("y_t", TensorProto.FLOAT, None)],
    )


def test_a_scan_that_nothing_recurrent_stands_beside(refused: Refused) -> None:
    graph = Graph()
    graph.input("x", ["time", 1, FEATURES])
    start = graph.constant(np.zeros((1, FEATURES), np.float32))
    graph.add("Scan", [start, "x"], ["", "y"], name="loop", num_scan_inputs=1, body=_loop_body())
    graph.output("y")
    assert refused(graph).startswith("Scan 'loop' loops over the sequence by itself")


def test_a_scan_behind_a_layer(refused: Refused) -> None:
    graph = Graph()
    graph.input("x", ["time", 1, FEATURES])
    y = graph.recurrent("GRU", "x")
    flat = graph.add("Squeeze", [y, graph.constant(np.array([1]))])
    start = graph.constant(np.zeros((1, HIDDEN), np.float32))
    graph.add("Scan", [start, flat], ["", "y"], name="loop", num_scan_inputs=1, body=_loop_body())
    graph.output("y")
    assert refused(graph).startswith("Scan 'loop' loops over the sequence by itself")


def test_a_network_that_knows_where_it_is_in_the_sequence(refused: Refused) -> None:
    graph, hidden = behind_a_layer()
    length = graph.add("Gather", [graph.add("Shape", ["x"]), graph.constant(np.array(1))])
    numbers = graph.add("Range", [graph.constant(np.array(0)), length, graph.constant(np.array(1))])
    column = graph.add("Unsqueeze", [numbers, graph.constant(np.array([1]))])
    places = graph.add("Cast", [column], to=1)
    graph.add("Add", [hidden, places], "y")
    graph.output("y")
    message = refused(graph, ProofFailed)
    assert "output 'y' of the step model differs from the graph's by" in message


def test_a_recurrence_that_runs_along_the_batch(refused: Refused) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    y = graph.recurrent("GRU", "x")
    linear(graph, graph.add("Squeeze", [y, graph.constant(np.array([1]))]), "y")
    graph.output("y")
    assert refused(graph) == (
        "GRU 'gru_0' runs along axis 0 of 'x', which the graph calls 'batch'; it must run along "
        "time"
    )


def test_two_inputs_that_could_be_the_sequence(refused: Refused) -> None:
    graph = per_step()
    graph.input("speaker", ["batch", 3])
    message = refused(graph)
    assert message == (
        "the graph has 2 inputs ('x', 'speaker'), and one of them takes the sequence; say of the "
        "others that they are constants or contexts"
    )


def test_a_constant_that_is_no_input(refused: Refused) -> None:
    message = refused(per_step(), ExportError, constants={"rate": 1})
    assert message == "constant 'rate' is no input of the graph; its inputs are 'x'"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.7, "constant 'rate' is 1.7; allowed is int64"),
        (float("nan"), "constant 'rate' is nan; allowed is int64"),
        ("fast", "constant 'rate' is 'fast'; allowed is int64"),
        ([1, 2], r"constant 'rate' has shape \[2\]; allowed is \[\]"),
    ],
)
def test_a_constant_that_does_not_fit_its_input(
    value: object, message: str, refused: Refused
) -> None:
    graph = per_step()
    graph.input("rate", [], TensorProto.INT64)
    graph.nodes.append(helper.make_node("Cast", ["rate"], ["as_float"], to=TensorProto.FLOAT))
    graph.nodes.append(helper.make_node("Mul", ["y", "as_float"], ["z"]))
    graph.output("z")
    assert re.search(message, refused(graph, ExportError, constants={"rate": value}))


def test_a_string_that_is_not_text(tmp_path: Path) -> None:
    model = per_step("GRU").model()
    strings = helper.make_node("Constant", [], ["strings"], value_strings=[b"\xff\xfe"])
    model.graph.node.insert(0, strings)
    path = tmp_path / "whole.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedGraph, match=r"^the graph can't be read: [^\n]+$"):
        export_graph(path, tmp_path / "step.onnx")
    assert not (tmp_path / "step.onnx").exists()
