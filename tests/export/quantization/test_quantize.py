"""What becomes int8, what stays as it is, and how close it stays."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from elman_export.errors import UnsupportedGraph
from elman_export.proof.stepmodel import StepModel
from elman_export.quantization import quantize
from elman_server.model.spec import ModelSpec
from tests.export.quantization.graphs import Net

TIME = 8

NETS = {
    "LSTM": Net(),
    "LSTM with peepholes": Net(peepholes=True),
    "LSTM with clip": Net(attributes={"clip": 0.4}),
    "LSTM that couples its gates": Net(attributes={"input_forget": 1}),
    "LSTM of odd activations": Net(
        attributes={
            "activations": ["HardSigmoid", "Softsign", "LeakyRelu"],
            "activation_alpha": [0.3, 0.05],
            "activation_beta": [0.4],
        }
    ),
    "GRU": Net(cell="GRU"),
    "GRU that resets late": Net(cell="GRU", attributes={"linear_before_reset": 1}),
    "GRU with clip": Net(cell="GRU", attributes={"clip": 0.4}),
    "GRU of relus": Net(cell="GRU", attributes={"activations": ["Sigmoid", "Relu"]}),
    "RNN": Net(cell="RNN"),
    "RNN of relus": Net(cell="RNN", attributes={"activations": ["Relu"]}),
    "RNN of elus": Net(cell="RNN", attributes={"activations": ["Elu"], "activation_alpha": [0.5]}),
    "two layers": Net(layers=2),
    "features": Net(features=True),
    "wide features": Net(features=True, width=256, hidden=64),
    "features for small gates": Net(cell="GRU", features=True, width=64, hidden=100),
    "the same in an old operator set": Net(features=True, width=64, hidden=64, opset=12),
    "large features": Net(features=True, scale=30.0),
    "a large initial state": Net(cell="GRU", initial=2.5),
    "an old operator set": Net(opset=11),
    "no lengths": Net(lengths=False),
    "a large head": Net(hidden=64, out=100),
}


def run(model: onnx.ModelProto, spec: ModelSpec, x: np.ndarray) -> np.ndarray:
    answer = StepModel(model.SerializeToString(), spec).run(x, [[x.shape[1]]] * len(x))
    return answer.outputs["y"]


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("net", NETS.values(), ids=NETS.keys())
def test_an_int8_model_computes_nearly_the_same(net: Net) -> None:
    model, spec = net.build()
    small, small_spec = quantize(model, spec)
    onnx.checker.check_model(small)
    assert "Scan" in operators(small)
    assert not {"LSTM", "GRU", "RNN"} & set(operators(small))
    x = net.elements(6, TIME)
    expected, found = run(model, spec, x), run(small, small_spec, x)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    # Not by chance: it is as close as rounding lets it, and not closer.
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999
    assert (found != expected).any()


def test_the_spec_changes_in_its_lengths_and_hidden_states_only() -> None:
    model, spec = Net(layers=2).build()
    before = model.SerializeToString()
    small, small_spec = quantize(model, spec)
    h0, c0, h1, c1 = spec.states
    h0, h1 = (replace(h, dtype="uint8", initial=(128.0,) * 16) for h in (h0, h1))
    states = (h0, c0, h1, c1)
    assert small_spec == replace(spec, lengths=None, states=states)
    assert [each.name for each in small.graph.input] == ["x", "h0", "c0", "h1", "c1"]
    assert [each.name for each in small.graph.output] == [each.name for each in model.graph.output]
    assert model.SerializeToString() == before


def test_an_initial_state_becomes_bytes_as_a_state_does() -> None:
    _, spec = quantize(*Net(initial=0.5).build())
    assert spec.states[0].initial == (192.0,) * 16
    assert spec.states[1].initial == (0.5,) * 16


@pytest.mark.parametrize("net", [Net(cell="GRU"), Net(initial=1.5)], ids=str)
def test_a_hidden_state_that_a_step_needs_as_it_is_stays_float32(net: Net) -> None:
    _, spec = quantize(*net.build())
    assert {state.dtype for state in spec.states} == {"float32"}


def test_a_hidden_state_that_something_else_reads_stays_float32() -> None:
    for name in ("h0", "h0.next"):
        model, spec = Net().build()
        model.graph.node.append(helper.make_node("Abs", [name], ["size"]))
        model.graph.output.append(helper.make_empty_tensor_value_info("size"))
        _, small_spec = quantize(model, spec)
        assert small_spec.states == spec.states


def test_a_state_that_the_graph_makes_larger_between_steps_is_not_cut_off() -> None:
    net = Net(cell="GRU")
    model, spec = net.build()
    for node in model.graph.node:
        node.output[:] = ["h" if name == "h0.next" else name for name in node.output]
    model.graph.node.append(helper.make_node("Mul", ["h", "three"], ["h0.next"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(3, np.float32), "three"))
    small, small_spec = quantize(model, spec)
    x, singles = net.elements(3, TIME), [[1] * TIME] * 3
    expected = StepModel(model.SerializeToString(), spec).run(x, singles).outputs["y"]
    found = StepModel(small.SerializeToString(), small_spec).run(x, singles).outputs["y"]
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_lengths_that_something_else_reads_are_made_of_the_elements_shape() -> None:
    model, spec = Net().build()
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["lengths"], ["count"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["count", "column"], ["counts"]),
            helper.make_node("Mul", ["y", "counts"], ["times"]),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 1, 1]), "column"))
    model.graph.output[0].name = "times"
    spec = replace(spec, outputs=(replace(spec.outputs[0], name="times"),))
    small, small_spec = quantize(model, spec)
    x = Net().elements(3, 4)
    cuts = [[4]] * 3
    expected = StepModel(model.SerializeToString(), spec).run(x, cuts).outputs["times"]
    found = StepModel(small.SerializeToString(), small_spec).run(x, cuts).outputs["times"]
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_files_are_nearly_four_times_smaller() -> None:
    model, spec = Net(layers=2, hidden=128, width=64, out=96).build()
    small, _ = quantize(model, spec)
    assert small.ByteSize() < 0.27 * model.ByteSize()


def test_an_embedding_is_kept_as_int8_too() -> None:
    small, _ = quantize(*Net().build())
    tables = {each.name: each for each in small.graph.initializer}
    assert tables["embedding/codes"].data_type == TensorProto.UINT8
    assert "embedding" not in tables


def test_layers_hand_one_another_int8_and_a_large_head_reads_it() -> None:
    small, _ = quantize(*Net(layers=2, hidden=64, out=100).build())
    assert operators(small)[-3:] == ["Squeeze", "Transpose", "MatMulIntegerToFloat"]
    first, second = (node for node in small.graph.node if node.op_type == "Scan")
    assert second.input[2] == first.output[2]


def told(model: onnx.ModelProto, spec: ModelSpec) -> str:
    lines: list[str] = []
    quantize(model, spec, tell=lines.append)
    return "\n".join(lines)


def test_a_product_that_is_too_small_stays_and_is_told() -> None:
    assert told(*Net().build()) == (
        "MatMul 'y' stays float32: 16 x 5 weights are too few to gain by it"
    )


def test_an_inputs_weights_are_int8_where_those_of_all_gates_are_worth_it() -> None:
    net = Net(features=True, width=64, hidden=128, out=96)
    model, spec = net.build()
    assert told(model, spec) == ""
    small, _ = quantize(model, spec)
    assert small.ByteSize() < 0.28 * model.ByteSize()


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (Net(features=True, width=40, out=999), "40 x 64 weights are too few to gain by it"),
        (Net(features=True, width=16, hidden=256), "rows of 16 are too short to gain by it"),
    ],
    ids=str,
)
def test_an_inputs_weights_that_stay_are_told_with_the_layer(net: Net, reason: str) -> None:
    lines = told(*net.build()).splitlines()
    assert f"the input's weights of LSTM 'y0' stay float32: {reason}" in lines


def kept(change: str, model: onnx.ModelProto) -> None:
    """Makes the second layer of a model one that has no int8 form."""
    graph = model.graph
    node = next(node for node in graph.node if node.name == "y1")
    match change:
        case "activation":
            names = ["Sigmoid", "Tanh", "ScaledTanh"]
            node.attribute.append(helper.make_attribute("activations", names))
            node.attribute.append(helper.make_attribute("activation_alpha", [1.7]))
            node.attribute.append(helper.make_attribute("activation_beta", [0.7]))
        case "weights":
            graph.node.insert(0, helper.make_node("Neg", ["W1"], ["computed"]))
            node.input[1] = "computed"
        case "start":
            node.input[5] = ""
        case "lengths":
            graph.node.insert(0, helper.make_node("Identity", ["lengths"], ["others"]))
            node.input[4] = "others"
        case "branch":
            inner = onnx.NodeProto()
            inner.CopyFrom(node)
            names = list(node.output)
            branches = []
            for branch in ("then", "else"):
                inner.output[:] = [f"{branch}/{name}" for name in names]
                infos = [helper.make_empty_tensor_value_info(name) for name in inner.output]
                branches.append(helper.make_graph([inner], branch, [], infos))
            graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
            node.CopyFrom(
                helper.make_node(
                    "If",
                    ["always"],
                    names,
                    name="choice",
                    then_branch=branches[0],
                    else_branch=branches[1],
                )
            )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("activation", "LSTM 'y1' stays float32: its activation ScaledTanh is no ONNX operator"),
        ("weights", "LSTM 'y1' stays float32: its weights are computed in the graph"),
        ("start", "LSTM 'y1' stays float32: it starts from zeros at every step"),
        ("lengths", "LSTM 'y1' stays float32: its lengths are not those of the step"),
        ("branch", "LSTM 'y1' stays float32: it stands inside If 'choice'"),
    ],
)
def test_an_operator_without_an_int8_form_stays_and_is_told(change: str, reason: str) -> None:
    net = Net(layers=2)
    model, spec = net.build()
    kept(change, model)
    if change == "start":
        spec = replace(spec, states=tuple(s for s in spec.states if s.name != "h1"))
        model.graph.input.remove(next(each for each in model.graph.input if each.name == "h1"))
    assert reason in told(model, spec)
    small, small_spec = quantize(model, spec)
    assert operators(small).count("Scan") == 1
    x = net.elements(3, TIME)
    expected, found = run(model, spec, x), run(small, small_spec, x)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_a_graph_with_nothing_to_make_int8_is_refused() -> None:
    net = Net(attributes={"activations": ["Affine", "Tanh", "Tanh"]})
    with pytest.raises(UnsupportedGraph, match="nothing that can become int8"):
        quantize(*net.build())


def test_an_operator_set_that_is_too_old_is_refused() -> None:
    model, spec = Net(opset=11).build()
    model.opset_import[0].version = 9
    with pytest.raises(UnsupportedGraph, match=r"operator set 9; int8 takes 11 or newer"):
        quantize(model, spec)
