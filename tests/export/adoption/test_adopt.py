"""A stranger's graph becomes a step model that says the same, or none is written."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from elman_export.adoption.adopt import adopt, has_states
from elman_export.errors import ExportError, ProofFailed, UnsupportedGraph
from elman_export.interface import features, values
from elman_export.keep import Report
from elman_export.proof import Proof
from tests.export.adoption.graphs import FEATURES, HIDDEN, Graph, answers, leaky, lstm
from tests.oracle import Oracle

X = np.random.default_rng(4).standard_normal((2, 8, FEATURES)).astype(np.float32)
EXPECTED = np.stack([answers(row) for row in X])


def adopted(graph: Graph, folder: Path, **options: object) -> Report:
    return adopt(graph.save(folder), folder / "m.onnx", **options)  # type: ignore[arg-type]


def refusal(graph: Graph, folder: Path, **options: object) -> str:
    with pytest.raises(ExportError) as caught:
        adopted(graph, folder, **options)
    assert [path.name for path in folder.iterdir()] == ["given.onnx"]
    message = str(caught.value)
    assert "\n" not in message
    return message


def said(report: Report, x: np.ndarray, name: str = "y") -> list[object]:
    return [outputs[name].tolist() for outputs in Oracle(report.path).run(x)]


# What is proved.


def test_the_proof_stands_in_the_file_way_by_way(tmp_path: Path) -> None:
    report = adopted(lstm("btf"), tmp_path, examples=X, expected={"y": EXPECTED})
    assert {(each.input, each.way) for each in report.proof.comparisons} == {
        *(
            (source, way)
            for source in ("random", "examples")
            for way in ("whole", "one element at a time", "in random chunks", "each row alone")
        ),
        ("examples", "what was expected"),
    }
    assert report.proof.exact
    kept = {each.key: each.value for each in onnx.load(report.path).metadata_props}
    assert kept["elman.proof"] == report.proof.to_json()
    assert isinstance(report.proof, Proof)


SWAPPED = {"h0": "cn", "c0": "hn"}


def test_swapped_states_are_caught_where_whole_sequences_tell(tmp_path: Path) -> None:
    message = refusal(lstm("btf"), tmp_path, states=SWAPPED)
    assert "between whole sequences and one element after another" in message
    assert "are the states' pairs right (h0:cn, c0:hn)?" in message


def test_swapped_states_are_caught_where_the_last_answers_tell(tmp_path: Path) -> None:
    graph = lstm("btf")
    graph.node("Gather", f"y {graph.constant('last', np.int64(-1))}", "end", axis=1)
    graph.gives("end", ["batch", 2])
    assert "pairs right" in refusal(graph, tmp_path, states=SWAPPED, outputs=[values("end")])


def test_swapped_states_are_caught_where_the_caller_knows_the_outputs(tmp_path: Path) -> None:
    graph = lstm("bf")
    message = refusal(graph, tmp_path, states=SWAPPED, examples=X, expected={"y": EXPECTED})
    assert "from what was expected for the examples" in message
    assert adopted(graph, tmp_path, examples=X, expected={"y": EXPECTED}).spec.batched


def test_one_step_alone_does_not_tell_swapped_states(tmp_path: Path) -> None:
    """As docs/export.md says: nothing in the file says otherwise."""
    assert adopted(lstm("bf"), tmp_path, states=SWAPPED).proof.exact


def test_a_wrong_constant_is_caught_by_what_the_caller_knows(tmp_path: Path) -> None:
    graph = leaky()
    graph.takes("gain", [])
    graph.node("Mul", "y gain", "scaled")
    graph.gives("scaled", ["batch", 2])
    ones = np.ones((4, 2), np.float32)
    known = {"scaled": np.array([[2, 2], [3, 3], [3.5, 3.5], [3.75, 3.75]])}
    options = {"examples": ones, "expected": known, "outputs": [values("scaled")]}
    assert "constants" in refusal(graph, tmp_path, constants={"gain": 1.0}, **options)
    report = adopted(graph, tmp_path, constants={"gain": 2.0}, **options)
    assert said(report, ones, "scaled")[:2] == [[2, 2], [3, 3]]


@pytest.mark.parametrize(
    ("examples", "expected", "said"),
    [
        (None, {"y": EXPECTED}, "need the examples"),
        (X[:, :, :2], {}, r"examples have shape [2, 8, 2]; expected is ['batch', 'time', 3]"),
        (X, {"z": EXPECTED}, "expected names output 'z'"),
        (X, {"y": EXPECTED[:, :3]}, "for the examples it is [2, 8, 2]"),
        (X * np.float32(np.nan), {}, "not finite"),
    ],
)
def test_examples_that_do_not_fit(
    examples: np.ndarray | None, expected: dict[str, np.ndarray], said: str, tmp_path: Path
) -> None:
    assert said in refusal(lstm(), tmp_path, examples=examples, expected=expected)


# Inputs that are no elements.


def with_gain(kind: int = TensorProto.FLOAT, dims: list[int | str | None] | None = None) -> Graph:
    """A leaky sum whose answers are taken times an input."""
    graph = leaky()
    graph.takes("gain", dims or [], kind)
    graph.node("Cast", "gain", "gain32", to=TensorProto.FLOAT)
    graph.node("Mul", "y gain32", "scaled")
    graph.gives("scaled", ["batch", 2])
    return graph


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT16])
def test_a_constant_takes_the_type_that_the_graph_declares(kind: int, tmp_path: Path) -> None:
    report = adopted(with_gain(kind), tmp_path, constants={"gain": 3})
    assert {value.name for value in onnx.load(report.path).graph.input} == {"x", "h"}
    assert said(report, np.ones((2, 2)), "scaled") == [[3, 3], [4.5, 4.5]]


@pytest.mark.parametrize(
    ("kind", "constants", "said"),
    [
        (TensorProto.INT64, {"gain": 1.5}, "constant 'gain' is 1.5; it must be int64"),
        (TensorProto.UINT8, {"gain": 300}, "it must be uint8"),
        (TensorProto.FLOAT, {"gain": [1, 2]}, "constant 'gain' has shape [2]; the graph declares"),
        (TensorProto.FLOAT, {"gian": 1}, "constant 'gian' is no input of the graph; it has 'x'"),
        (TensorProto.FLOAT, {"gain": "loud"}, "it must be float32"),
    ],
)
def test_constants_that_do_not_fit(
    kind: int, constants: dict[str, object], said: str, tmp_path: Path
) -> None:
    assert said in refusal(with_gain(kind), tmp_path, constants=constants)


def test_a_constant_decides_an_if_in_which_rows_are_free(tmp_path: Path) -> None:
    graph = leaky()
    graph.takes("double", [], TensorProto.BOOL)
    branches = {}
    for name, operator in (("then", "Add"), ("else", "Mul")):
        node = helper.make_node(operator, ["y", "y"], [f"{name}_out"])
        value = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        branches[f"{name}_branch"] = helper.make_graph([node], name, [], [value])
    graph.node("If", "double", "z", **branches)
    graph.gives("z", ["batch", 2])
    report = adopted(graph, tmp_path, constants={"double": True}, outputs=[values("z")])
    assert report.spec.batched
    assert said(report, np.full((2, 2), 4.0), "z") == [[8, 8], [12, 12]]


@pytest.mark.parametrize(
    ("dims", "shape", "batched"), [(["batch", 2], (2,), True), ([1, 2], (2,), True), ([2], (2,), 0)]
)
def test_a_context_is_given_once_for_a_session(
    dims: list[int | str | None], shape: tuple[int, ...], batched: bool, tmp_path: Path
) -> None:
    report = adopted(with_gain(dims=dims), tmp_path, contexts=["gain"])
    (context,) = report.spec.contexts
    assert (context.name, context.input, context.shape) == ("gain", "gain", shape)
    assert report.spec.batched == batched
    assert report.proof.exact


def test_a_context_that_the_graph_lacks(tmp_path: Path) -> None:
    assert "context 'nope' is no input" in refusal(leaky(), tmp_path, contexts=["nope"])


def test_a_state_begins_with_what_the_graph_itself_says(tmp_path: Path) -> None:
    graph = leaky()
    graph.inputs[1].type.tensor_type.shape.dim[0].dim_value = 1
    graph.constants.append(numpy_helper.from_array(np.array([[8, 16]], np.float32), "h"))
    report = adopted(graph, tmp_path, states={"h": "h_out"})
    assert report.spec.states[0].initial == (8.0, 16.0)
    assert said(report, np.zeros((2, 2))) == [[4, 8], [2, 4]]


# Elements that overlap.


def frames(order: str) -> Graph:
    """A leaky sum of the sums of frames of 5; frames `[batch, 5]` or `[time, 5]`."""
    graph = Graph()
    graph.takes("frame", [order, 5])
    graph.takes("h", [order if order == "batch" else 1, 1])
    total = graph.node("ReduceSum", f"frame {graph.constant('last', [1])}", "total", keepdims=1)
    if order == "batch":
        graph.node("Add", f"h {total}", "h_out")
        graph.node("Identity", "h_out", "y")
    else:
        graph.node("CumSum", f"{total} {graph.constant('first', np.int64(0))}", "sums")
        graph.node("Add", "sums h", "y")
        end = [graph.constant("end", [-1]), graph.constant("stop", [2**31]), "zero"]
        graph.constant("zero", [0])
        graph.node("Slice", f"y {' '.join(end)}", "h_out")
    graph.gives("y", [order, 1])
    graph.gives("h_out", None)
    return graph


@pytest.mark.parametrize("order", ["batch", "time"])
def test_a_client_pushes_what_is_new_where_elements_overlap(order: str, tmp_path: Path) -> None:
    report = adopted(frames(order), tmp_path, overlap=2)
    assert report.spec.input.shape == (3,)
    assert report.spec.states[-1].shape == (2,)
    assert report.spec.time_axis is (order == "time")
    stream = np.arange(1, 13, dtype=np.float32)
    padded = np.concatenate([np.zeros(2), stream])
    windows = [padded[start : start + 5].sum() for start in (0, 3, 6, 9)]
    assert said(report, stream.reshape(4, 3)) == np.cumsum(windows).tolist()


@pytest.mark.parametrize(
    ("overlap", "said"),
    [(5, "overlap is 5; the graph's elements have shape [5]"), (-1, "overlap is -1")],
)
def test_an_overlap_that_leaves_nothing_new(overlap: int, said: str, tmp_path: Path) -> None:
    assert said in refusal(frames("batch"), tmp_path, overlap=overlap)


# What rounds by the batch.


def quantized() -> Graph:
    """`h' = x + h W`, the product in 8 bits by one scale for the whole batch."""
    graph = Graph()
    rng = np.random.default_rng(0)
    for name in ("x", "h"):
        graph.takes(name, ["batch", 16])
    graph.constant("w", rng.integers(-100, 100, (16, 16)).astype(np.int8))
    graph.constant("scale", np.float32(0.001))
    graph.constant("zero", np.int8(0))
    graph.node("DynamicQuantizeLinear", "h", "q qs qz")
    graph.node("MatMulInteger", "q w qz zero", "p")
    graph.node("Cast", "p", "pf", to=TensorProto.FLOAT)
    graph.node("Mul", "qs scale", "s")
    graph.node("Mul", "pf s", "product")
    graph.node("Add", "product x", "h_out")
    graph.node("Identity", "h_out", "y")
    for name in ("y", "h_out"):
        graph.gives(name, ["batch", 16])
    return graph


def test_rows_that_leak_into_one_another_are_served_alone(tmp_path: Path) -> None:
    report = adopted(quantized(), tmp_path)
    assert not report.spec.batched
    assert report.proof.exact


# What is refused.


def test_a_graph_without_states(tmp_path: Path) -> None:
    graph = Graph()
    graph.takes("x", ["batch", "time", 3])
    graph.node("Relu", "x", "y")
    graph.gives("y", ["batch", "time", 3])
    assert "the graph has no state" in refusal(graph, tmp_path)
    assert not has_states(graph.model())


def test_what_has_states_is_told_from_whole_sequences() -> None:
    assert has_states(leaky().model())
    assert has_states(lstm(lengths=True).model())
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
    assert not has_states(whole)


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
