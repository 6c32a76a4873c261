"""What is no streaming graph, or can't become a step model, is refused in one line."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from elman_export.errors import ProofFailed, UnsupportedGraph
from elman_export.interface import features, values
from elman_export.options import GraphInputs
from elman_export.original.adoption.roles import has_states
from tests.export.original.adoption.graphs import (
    HIDDEN,
    SWAPPED,
    Graph,
    adopted,
    leaky,
    lstm,
    refusal,
)


def test_a_graph_without_states(tmp_path: Path) -> None:
    graph = Graph()
    graph.takes("x", ["batch", "time", 3])
    graph.node("Relu", "x", "y")
    graph.gives("y", ["batch", "time", 3])
    assert "the graph has no state" in refusal(graph, tmp_path)
    assert not has_states(graph.model(), GraphInputs())


def test_what_has_states_is_told_from_whole_sequences() -> None:
    assert has_states(leaky().model(), GraphInputs())
    assert has_states(lstm(lengths=True).model(), GraphInputs())
    whole = lstm("btf").model()
    # The same LSTM from zeros as large as the input asks for, beside an input that is no state.
    del whole.graph.input[1:], whole.graph.output[1:]
    added = Graph()
    added.constant("places", [0])
    added.node("Shape", "x", "sizes")
    added.node("Gather", "sizes places", "rows")
    added.node("Concat", "places1 rows width", "shape", axis=0)
    added.constant("places1", [1])
    added.constant("width", [HIDDEN])
    for name in ("h0", "c0"):
        added.node("ConstantOfShape", "shape", name)
    nodes = [*added.nodes, *whole.graph.node]
    del whole.graph.node[:]
    whole.graph.node.extend(nodes)
    whole.graph.initializer.extend(added.constants)
    other = helper.make_tensor_value_info("other", TensorProto.FLOAT, ["batch", "time", 2])
    whole.graph.input.append(other)
    onnx.checker.check_model(whole)
    assert not has_states(whole, GraphInputs())


def test_a_state_that_grows_is_named(tmp_path: Path) -> None:
    graph = Graph()
    graph.takes("x", ["batch", 2])
    graph.takes("past", ["batch", "length", 2])
    graph.node("Unsqueeze", f"x {graph.constant('one', [1])}", "row")
    graph.node("Concat", "past row", "present", axis=1)
    graph.node("ReduceSum", "present one", "y", keepdims=0)
    graph.gives("present", ["batch", "longer", 2])
    graph.gives("y", ["batch", 2])
    message = refusal(graph, tmp_path, states={"past": "present"})
    assert message.startswith("state 'past' goes in as [1, 1, 2] and comes back as [1, 2, 2]")


def test_random_numbers_are_refused_by_their_nodes_name(tmp_path: Path) -> None:
    graph = leaky()
    graph.node("RandomNormalLike", "y", "noise", name="dice")
    graph.gives("noise", ["batch", 2])
    assert "RandomNormalLike 'dice' draws random numbers" in refusal(graph, tmp_path)


def test_an_output_that_does_not_come_for_each_row(tmp_path: Path) -> None:
    graph = leaky()
    graph.node("ReduceSum", f"y {graph.constant('axis', [0])}", "all", keepdims=0)
    graph.gives("all", [2])
    message = refusal(graph, tmp_path)
    assert message == (
        "output 'all' has shape [2] for one row and for 3: it does not come for each row; choose "
        "the outputs that do with --returns"
    )
    assert adopted(graph, tmp_path, outputs=[values("y")]).spec.batched


def test_an_output_that_the_graph_lacks(tmp_path: Path) -> None:
    message = refusal(leaky(), tmp_path, outputs=[values("z")])
    assert message == "output 'z' is none of the graph's; it has 'y', 'h_out'"


def of_any_width() -> Graph:
    graph = leaky()
    for value in (*graph.inputs, *graph.outputs):
        value.type.tensor_type.shape.dim[1].dim_param = "n"
    return graph


def test_an_element_whose_shape_nobody_says_is_asked_for(tmp_path: Path) -> None:
    states = {"h": "h_out"}
    assert "--input features:SHAPE" in refusal(of_any_width(), tmp_path, states=states)
    report = adopted(of_any_width(), tmp_path, states=states, input=features(5))
    assert report.spec.states[0].shape == (5,)


def test_a_state_of_any_width_is_not_guessed(tmp_path: Path) -> None:
    graph = of_any_width()
    graph.nodes[1].input[1] = "half"  # the elements do not go in
    graph.node("Add", "x half", "z")
    graph.gives("z", ["batch", "n"])
    message = refusal(
        graph, tmp_path, states={"h": "h_out"}, input=features(4), outputs=[values("z")]
    )
    assert "the shape of state 'h' is not declared, and the graph runs with several" in message


def test_a_type_that_no_element_has(tmp_path: Path) -> None:
    graph = Graph()
    for name in ("x", "h"):
        graph.takes(name, ["batch", 2], TensorProto.BOOL)
    graph.node("Xor", "x h", "h_out")
    graph.node("Identity", "h_out", "y")
    for name in ("y", "h_out"):
        graph.gives(name, ["batch", 2], TensorProto.BOOL)
    assert "takes elements of bool" in refusal(graph, tmp_path)


def test_a_file_that_was_there_stays_when_the_proof_fails(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"before")
    with pytest.raises(ProofFailed):
        adopted(lstm("btf"), tmp_path, states=SWAPPED)
    assert (tmp_path / "m.onnx").read_bytes() == b"before"


def test_the_graph_says_why_no_layout_runs(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedGraph, match=r"takes elements of \[7\]"):
        adopted(lstm("bf", features=None), tmp_path, input=features(7))
