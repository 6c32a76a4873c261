"""A stranger's graph becomes a step model that says the same, or none is written."""

from itertools import permutations
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from elman_export.interface import values
from elman_export.proof.proof import Proof
from elman_export.writer import Report
from tests.export.original.adoption.graphs import (
    FEATURES,
    SWAPPED,
    Graph,
    adopted,
    answers,
    leaky,
    lstm,
    refusal,
)
from tests.oracle import Oracle

X = np.random.default_rng(4).standard_normal((2, 8, FEATURES)).astype(np.float32)
EXPECTED = np.stack([answers(row) for row in X])


def said(report: Report, x: np.ndarray, name: str = "y") -> list[object]:
    return [outputs[name].tolist() for outputs in Oracle(report.path).run(x)]


# What is proved.


def test_the_proof_stands_in_the_file_way_by_way(tmp_path: Path) -> None:
    report = adopted(lstm("btf"), tmp_path, examples=X, expected={"y": EXPECTED})
    assert {(each.input, each.way) for each in report.proof.comparisons} == {
        *(
            (source, way)
            for source in ("random", "padded", "examples")
            for way in ("whole", "one element at a time", "in random chunks", "each row alone")
        ),
        ("examples", "what was expected"),
    }
    assert report.proof.exact
    kept = {each.key: each.value for each in onnx.load(report.path).metadata_props}
    assert kept["elman.proof"] == report.proof.to_json()
    assert isinstance(report.proof, Proof)


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


def bank() -> Graph:
    """Three leaky sums that forget differently; rows of 2."""
    graph = Graph()
    graph.takes("x", ["batch", 2])
    for name, kept in (("a", 0.9), ("b", 0.5), ("c", 0.1)):
        graph.takes(name, ["batch", 2])
        graph.constant(f"{name}_kept", np.float32(kept))
        graph.node("Mul", f"{name} {name}_kept", f"{name}_decayed")
        graph.node("Add", f"{name}_decayed x", f"{name}_out")
        graph.gives(f"{name}_out", ["batch", 2])
    graph.node("Sum", "a_out b_out c_out", "y")
    graph.gives("y", ["batch", 2])
    return graph


@pytest.mark.parametrize("order", [*permutations("abc")])
def test_every_wrong_pairing_is_caught_by_what_the_caller_knows(
    order: tuple[str, ...], tmp_path: Path
) -> None:
    x = np.random.default_rng(6).standard_normal((6, 2)).astype(np.float32)
    sums, known = np.zeros((3, 2)), []
    for element in x:
        sums = sums * [[0.9], [0.5], [0.1]] + element
        known.append(sums.sum(0))
    options = {"examples": x, "expected": {"y": np.array(known)}}
    states = {name: f"{other}_out" for name, other in zip("abc", order, strict=True)}
    if order == tuple("abc"):
        assert adopted(bank(), tmp_path, states=states, **options).proof.exact
        # Names say it too.
        assert adopted(bank(), tmp_path, **options).spec.batched
    else:
        assert "pairs right?" in refusal(bank(), tmp_path, states=states, **options)


def test_a_state_that_is_dropped_is_asked_for(tmp_path: Path) -> None:
    graph = bank()
    graph.node("Identity", "c_out", "renamed")
    graph.outputs[2].name = "renamed"
    message = refusal(graph, tmp_path)
    assert "one of the inputs x [?, 2], c [?, 2] takes the elements" in message
    assert "--state c:renamed" in message


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
