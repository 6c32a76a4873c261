"""States of whole-sequence graphs become inputs and outputs, and the network stays the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from elman_export.original.graphfile import export_graph
from elman_export.surgery import graphs
from elman_export.surgery.lift import lift as lift_states
from elman_export.surgery.trace import run
from tests.export.surgery.conftest import Lift
from tests.export.surgery.graphs import (
    FEATURES,
    HIDDEN,
    OUT,
    TIME,
    Graph,
    batch_major,
    linear,
    per_step,
    time_major,
)


@pytest.mark.parametrize("operator", ["RNN", "GRU", "LSTM"])
def test_an_operator_without_states_gets_them(operator: str, lift: Lift) -> None:
    report = lift(per_step(operator))
    name = operator.lower()
    assert [state.name for state in report.spec.states] == (
        [f"{name}0.h", f"{name}0.c"] if operator == "LSTM" else [f"{name}0.h"]
    )
    assert report.spec.time_axis
    assert report.spec.lengths == "lengths"
    assert report.proof.exact


@pytest.mark.parametrize(
    ("operator", "options"),
    [
        ("LSTM", {"peephole": True}),
        ("LSTM", {"input_forget": 1}),
        ("LSTM", {"clip": 0.4}),
        ("LSTM", {"activations": ["HardSigmoid", "Relu", "Tanh"]}),
        ("LSTM", {"activations": ["Sigmoid", "Elu", "Softsign"], "activation_alpha": [0.7]}),
        ("GRU", {"linear_before_reset": 1}),
        ("GRU", {"linear_before_reset": 0, "clip": 0.5}),
        ("GRU", {"activations": ["Sigmoid", "LeakyRelu"], "activation_alpha": [0.2]}),
        ("RNN", {"activations": ["Relu"]}),
        ("RNN", {"clip": 0.3}),
        ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.1]}),
        ("RNN", {"activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.1]}),
    ],
)
def test_whatever_its_gates_are(operator: str, options: dict[str, Any], lift: Lift) -> None:
    report = lift(per_step(operator, **options))
    assert report.proof.exact
    assert report.differences[0].maximum < 1e-5


def _zeros_slice(graph: Graph) -> str:
    """One layer's part of zeros that are stacked for two, as torch's exporter writes it."""
    shape = graph.add("Shape", ["x"])
    batch = graph.add("Gather", [shape, graph.constant(np.array([0]))])
    sizes = [graph.constant(np.array([2])), batch, graph.constant(np.array([HIDDEN]))]
    zeros = graph.add("ConstantOfShape", [graph.add("Concat", sizes, axis=0)])
    ends = [graph.constant(np.array([number])) for number in (1, 2, 0)]
    return graph.add("Slice", [zeros, *ends])


def _expanded(graph: Graph) -> str:
    shape = graph.add("Shape", ["x"])
    batch = graph.add("Gather", [shape, graph.constant(np.array([0]))])
    one = graph.constant(np.array([1]))
    sizes = graph.add("Concat", [one, batch, graph.constant(np.array([HIDDEN]))], axis=0)
    return graph.add("Expand", [graph.weight(1, 1, HIDDEN, name="learned"), sizes])


@pytest.mark.parametrize(("fed", "zeros"), [(_zeros_slice, True), (_expanded, False)])
def test_what_fed_the_initial_state_becomes_its_initial_value(
    fed: Callable[[Graph], str], zeros: bool, lift: Lift
) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    y = graph.recurrent("GRU", time_major(graph, "x"), h=fed(graph))
    linear(graph, batch_major(graph, y), "y")
    graph.output("y")
    (state,) = lift(graph).spec.states
    assert (state.initial is None) is zeros
    if not zeros:
        learned = next(each for each in graph.weights if each.name == "learned")
        assert state.initial_value().ravel().tolist() == (
            onnx.numpy_helper.to_array(learned).ravel().tolist()
        )


def test_a_constant_initial_state_of_a_graph_for_one_row_serves_any_number_of_rows(
    lift: Lift,
) -> None:
    graph = Graph()
    graph.input("x", [1, "time", FEATURES])
    start = graph.weight(1, 1, HIDDEN)
    y = graph.recurrent("GRU", time_major(graph, "x"), h=start)
    linear(graph, batch_major(graph, y), "y")
    graph.output("y")
    report = lift(graph)
    assert report.spec.batched
    assert report.spec.states[0].initial is not None


def test_several_layers_of_several_kinds_each_keep_their_own_states(lift: Lift) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    y = graph.recurrent("GRU", time_major(graph, "x"))
    flat = graph.add("Squeeze", [y, graph.constant(np.array([1]))])
    y = graph.recurrent("LSTM", flat, HIDDEN)
    flat = graph.add("Squeeze", [y, graph.constant(np.array([1]))])
    y = graph.recurrent("RNN", flat, HIDDEN)
    linear(graph, batch_major(graph, y), "y")
    graph.output("y")
    names = [state.name for state in lift(graph).spec.states]
    assert names == ["gru0.h", "lstm1.h", "lstm1.c", "rnn2.h"]


def test_final_states_among_the_outputs_are_left_out(lift: Lift) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    y = graph.recurrent("LSTM", time_major(graph, "x"), made=["", "h_n", "c_n"])
    linear(graph, batch_major(graph, y), "y")
    for name in ("y", "h_n", "c_n"):
        graph.output(name)
    assert [output.name for output in lift(graph).spec.outputs] == ["y"]


def test_a_time_major_graph_is_served_batch_first(lift: Lift) -> None:
    graph = Graph()
    graph.input("x", ["time", "batch", FEATURES])
    y = graph.recurrent("LSTM", "x")
    linear(graph, graph.add("Squeeze", [y, graph.constant(np.array([1]))]), "y")
    graph.output("y")
    path_dims = (
        onnx.load(lift(graph, lambda x: x[:, None]).path).graph.input[0].type.tensor_type.shape.dim
    )
    assert [dim.dim_param or dim.dim_value for dim in path_dims] == ["batch", "time", FEATURES]


def test_a_graph_without_a_batch_axis_is_served_unbatched(lift: Lift) -> None:
    graph = Graph()
    graph.input("x", ["time", FEATURES])
    rows = graph.add("Unsqueeze", ["x", graph.constant(np.array([1]))])
    y = graph.recurrent("LSTM", rows)
    flat = graph.add("Squeeze", [y, graph.constant(np.array([1, 2]))])
    linear(graph, flat, "y")
    graph.output("y")
    report = lift(graph, lambda x: x)
    assert not report.spec.batched
    assert report.spec.time_axis


@pytest.mark.parametrize("kind", [TensorProto.INT32, TensorProto.INT64])
def test_lengths_that_the_graph_takes_become_those_of_the_step(kind: int, lift: Lift) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    lengths = graph.input("x_len", ["batch"], kind)
    if kind == TensorProto.INT64:
        lengths = graph.add("Cast", [lengths], to=TensorProto.INT32)
    y = graph.recurrent("GRU", time_major(graph, "x"), lengths=lengths)
    linear(graph, batch_major(graph, y), "y")
    graph.output("y")
    report = lift(graph)
    assert report.spec.lengths == "x_len"
    assert report.proof.exact


def _written(batch: int | None, heads: int) -> Graph:
    """A graph that was traced for `batch` rows of `TIME` elements; with `heads` its length is also
    that of another axis."""
    graph = Graph()
    graph.input("x", [batch or "batch", TIME, FEATURES])
    y = graph.recurrent("LSTM", time_major(graph, "x"))
    turned = batch_major(graph, y)
    rows = -1 if batch is None else batch * TIME
    folded = graph.add("Reshape", [turned, graph.constant(np.array([rows, HIDDEN]))])
    scored = linear(graph, folded, "", out=heads * OUT)
    shape = [-1 if batch is None else batch, TIME, heads, OUT]
    split = graph.add("Reshape", [scored, graph.constant(np.array(shape))])
    picked = graph.constant(np.array(heads - 1))
    graph.add("Gather", [split, picked], "y", axis=2)
    graph.output("y", [batch or "batch", TIME, OUT])
    return graph


def test_a_length_that_is_written_into_a_graph_although_its_input_is_open(lift: Lift) -> None:
    """As torch's newer exporter does to a layer that takes the steps first."""
    graph = Graph()
    graph.input("x", ["time", "batch", FEATURES])
    y = graph.recurrent("GRU", "x")
    turned = graph.add("Transpose", [y], perm=[0, 2, 1, 3])
    flat = graph.add("Reshape", [turned, graph.constant(np.array([TIME, -1, HIDDEN]))])
    linear(graph, flat, "y")
    graph.output("y", ["time", "batch", OUT])
    report = lift(graph, lambda x: x[:, None])
    assert report.spec.time_axis
    assert report.proof.exact


@pytest.mark.parametrize("batch", [1, 3, None])
@pytest.mark.parametrize("heads", [1, 2, TIME])
def test_sizes_that_were_written_into_the_graph_become_dynamic(
    batch: int | None, heads: int, lift: Lift
) -> None:
    report = lift(_written(batch, heads), lambda x: np.repeat(x[None], batch or 1, 0))
    assert report.spec.time_axis
    assert report.spec.batched
    assert report.proof.exact


def _branch(graph: Graph, scale: float, x: str) -> onnx.GraphProto:
    inner = Graph()
    inner.rng = np.random.default_rng(int(scale * 10))
    scaled = inner.add("Mul", [x, inner.constant(np.float32(scale))], f"scaled{scale}")
    y = inner.recurrent("LSTM", scaled, made=[f"in_branch{scale}"])
    weights = [helper.make_node("Constant", [], [each.name], value=each) for each in inner.weights]
    for node in inner.nodes:
        node.input[:] = [
            f"{name}/{scale}" if name.startswith("constant") else name for name in node.input
        ]
        node.name = f"{node.name}/{scale}"
    for node in weights:
        node.output[:] = [f"{node.output[0]}/{scale}"]
    return helper.make_graph(
        [*weights, *inner.nodes],
        f"branch{scale}",
        [],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)],
    )


def test_an_operator_in_an_if_that_a_constant_decides_is_lifted(lift: Lift) -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    graph.input("rate", [], TensorProto.INT64)
    x = time_major(graph, "x")
    fast = graph.add("Equal", ["rate", graph.constant(np.array(16000))])
    y = graph.add(
        "If", [fast], then_branch=_branch(graph, 1.5, x), else_branch=_branch(graph, 0.5, x)
    )
    linear(graph, batch_major(graph, y), "y")
    graph.output("y")
    report = lift(graph, constants={"rate": 16000})
    assert [state.name for state in report.spec.states] == ["lstm0.h", "lstm0.c"]
    assert report.proof.exact


def test_a_state_in_a_branch_that_is_not_taken_stays_as_it_is() -> None:
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    graph.input("loud", [], TensorProto.BOOL)
    x = time_major(graph, "x")
    y = graph.add(
        "If", ["loud"], then_branch=_branch(graph, 1.5, x), else_branch=_branch(graph, 0.5, x)
    )
    linear(graph, batch_major(graph, y), "y")
    graph.output("y")
    model = graphs.read(graph.model())
    x_zeros = np.zeros((2, 4, FEATURES), np.float32)
    feeds = [{"x": x_zeros, "loud": np.array(loud)} for loud in (True, False)]
    model.graph.inputs.append(graphs.typed_value("n", np.int32, ["batch"]))
    states = lift_states(model, model.graph.inputs[-1], feeds)
    model.graph.sort()
    assert [state.name for state in states] == ["lstm0.h", "lstm0.c", "lstm1.h", "lstm1.c"]
    rng = np.random.default_rng(1)
    given = {each.input: rng.normal(size=(1, 2, HIDDEN)).astype("f") for each in states}
    lengths = np.full(2, 4, np.int32)
    made = run(model, {**feeds[0], "n": lengths, **given}, [s.output for s in states])
    for state in states:
        unchanged = np.array_equal(made[state.output], given[state.input])
        # ONNX keeps an If's branches by name: else before then.
        assert unchanged is state.name.startswith("lstm0")


def _in_function(graph: Graph, *, named: str) -> onnx.ModelProto:
    """The graph with its recurrent operator inside a function of the model's own."""
    model = graph.model()
    (operator,) = [node for node in model.graph.node if node.op_type == "GRU"]
    inner = onnx.NodeProto()
    inner.CopyFrom(operator)
    function = helper.make_function(
        "mine", named, list(operator.input), list(operator.output), [inner], model.opset_import
    )
    operator.op_type, operator.domain = named, "mine"
    del operator.attribute[:]
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    return model


@pytest.mark.parametrize("named", ["Layer", "LSTM"])
def test_an_operator_in_a_function_of_the_model_is_lifted(named: str, tmp_path: Path) -> None:
    path = tmp_path / "whole.onnx"
    path.write_bytes(_in_function(per_step("GRU"), named=named).SerializeToString())
    report = export_graph(path, tmp_path / "step.onnx")
    assert [state.name for state in report.spec.states] == ["gru0.h"]
    assert report.proof.exact


@pytest.mark.parametrize("written", ["as an initializer", "in a Constant"])
def test_sparse_weights_are_written_in_full(written: str, tmp_path: Path) -> None:
    model = per_step("GRU").model()
    (product,) = [node for node in model.graph.node if node.op_type == "MatMul"]
    (dense,) = [each for each in model.graph.initializer if each.name == product.input[1]]
    values = numpy_helper.to_array(dense).copy()
    values[0] = 0
    places = np.flatnonzero(values)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(values.reshape(-1)[places], dense.name),
        numpy_helper.from_array(places, "places"),
        list(values.shape),
    )
    model.graph.initializer.remove(dense)
    if written == "in a Constant":
        constant = helper.make_node("Constant", [], [product.input[1]], sparse_value=sparse)
        model.graph.node.insert(0, constant)
    else:
        model.graph.sparse_initializer.append(sparse)
    path = tmp_path / "whole.onnx"
    path.write_bytes(model.SerializeToString())
    assert export_graph(path, tmp_path / "step.onnx").proof.exact
