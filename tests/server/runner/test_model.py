"""A model that is not what its spec says does not load, and the error says what it is about."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from elman_server.errors import ModelLoadError
from elman_server.model import modelfile
from elman_server.model.modelfile import ModelFile
from elman_server.model.spec import ModelSpec, StateSpec
from elman_server.runner.model import StepModel
from elman_server.runner.probe import probe
from tests.stepmodels import Shape, leaky, lstm, save, save_conditioned, tilted

MAX_BATCH = 8


def file(path: Path, spec: ModelSpec) -> ModelFile:
    """An LSTM under another spec."""
    return modelfile.read(save(lstm(Shape(hidden=4))[0], spec, path / "model.onnx"))


def load(file: ModelFile) -> None:
    model = StepModel(file, threads=1, providers=("CPUExecutionProvider",))
    probe(model, max_batch_size=MAX_BATCH, max_chunk=16)


SPEC = lstm(Shape(hidden=4))[1]
OUTPUT = SPEC.outputs[0]
H, C = SPEC.states


def with_output(**changes: Any) -> ModelSpec:
    return replace(SPEC, outputs=(replace(OUTPUT, **changes),))


def with_state(**changes: Any) -> ModelSpec:
    return replace(SPEC, states=(replace(H, **changes), C))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            replace(SPEC, input=replace(SPEC.input, name="letters")),
            "the spec names input 'letters'; the graph has ids, lengths, h0, c0",
        ),
        (
            replace(SPEC, lengths="sizes"),
            "the spec names input 'sizes'; the graph has ids, lengths, h0, c0",
        ),
        (
            with_state(input="hidden"),
            "the spec names input 'hidden'; the graph has ids, lengths, h0, c0",
        ),
        (
            with_state(output="hidden"),
            "the spec names output 'hidden'; the graph has next, h0_next, c0_next",
        ),
        (
            with_output(name="following"),
            "the spec names output 'following'; the graph has next, h0_next, c0_next",
        ),
        (
            replace(SPEC, input=replace(SPEC.input, dtype="int32")),
            "input 'ids' is int32 in the spec and int64 in the graph",
        ),
        (
            with_state(dtype="float64"),
            "input 'h0' is float64 in the spec and float32 in the graph",
        ),
        (
            with_output(dtype="float16"),
            "output 'next' is float16 in the spec and float32 in the graph",
        ),
        (replace(SPEC, lengths=None), "the graph's input 'lengths' is not in the spec"),
        (replace(SPEC, states=(H,)), "the graph's input 'c0' is not in the spec"),
        (
            with_output(shape=(28,), labels=()),
            "output 'next' has shape [29] for an element; the spec says [28]",
        ),
    ],
)
def test_a_graph_that_is_not_as_its_spec_says_is_refused(
    spec: ModelSpec, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load(file(tmp_path, spec))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (with_state(shape=(1, 5)), "h0"),
        (with_state(shape=(1, 4), batch_axis=2), "h0"),
        (replace(SPEC, time_axis=False, lengths=None), "lengths"),
    ],
    ids=["shape of a state", "batch axis of a state", "time axis"],
)
def test_a_step_that_fails_at_once_names_the_tensor(
    spec: ModelSpec, named: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load(file(tmp_path, spec))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_state_that_comes_back_in_another_shape_is_refused(tmp_path: Path) -> None:
    model, spec = leaky(width=3)
    for value in (*model.graph.input, *model.graph.output):
        del value.type.tensor_type.shape.dim[:]
    [state] = spec.states
    wrong: StateSpec = replace(state, shape=(1,))
    path = save(model, replace(spec, states=(wrong,)), tmp_path / "model.onnx")
    with pytest.raises(ModelLoadError) as caught:
        load(modelfile.read(path))
    assert str(caught.value) == "state 'h' comes back in shape [3]; the spec says [1]"


# The initial-state network.


def other_names(initial: onnx.ModelProto) -> None:
    initial.graph.input[0].name = "begin"
    initial.graph.node[0].input[0] = initial.graph.node[0].input[1] = "begin"


def other_output(initial: onnx.ModelProto) -> None:
    initial.graph.output[0].name = initial.graph.node[0].output[0] = "hidden"


def other_input_type(initial: onnx.ModelProto) -> None:
    initial.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    initial.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def one_input_more(initial: onnx.ModelProto) -> None:
    initial.graph.input.add().CopyFrom(initial.graph.input[0])
    initial.graph.input[1].name = "more"


def nonsense(initial: onnx.ModelProto) -> None:
    initial.graph.node[0].op_type = "Nonsense"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_names, "the spec names input 'start'; the initial-state network has begin"),
        (other_output, "the spec names output 'h'; the initial-state network has hidden"),
        (
            other_input_type,
            "input 'start' is float32 in the spec and float64 in the initial-state network",
        ),
        (one_input_more, "the initial-state network's input 'more' is not in the spec"),
        (nonsense, "the initial-state network: .*Nonsense"),
    ],
)
def test_an_initial_state_network_that_is_not_as_its_spec_says_is_refused(
    spoil: Callable[[onnx.ModelProto], None], message: str, tmp_path: Path
) -> None:
    model, spec, initial = tilted()
    spoil(initial)
    path = save_conditioned((model, spec, initial), tmp_path / "model.onnx")
    with pytest.raises(ModelLoadError, match=message) as caught:
        load(modelfile.read(path))
    assert "\n" not in str(caught.value)


def test_it_may_take_contexts_of_the_steps_too(tmp_path: Path) -> None:
    model, spec, initial = tilted()
    initial.graph.input.add().CopyFrom(initial.graph.input[0])
    initial.graph.input[1].name = "tilt"
    initial.graph.node[0].input[1] = "tilt"
    load(modelfile.read(save_conditioned((model, spec, initial), tmp_path / "model.onnx")))


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"input": "slope"}, "the spec names input 'slope'; the graph has x, h, tilt"),
        ({"dtype": "float64"}, "input 'tilt' is float64 in the spec and float32 in the graph"),
    ],
)
def test_a_context_that_the_graph_does_not_take_is_refused(
    context: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model, spec, initial = tilted()
    start, tilt = spec.contexts
    spec = replace(spec, contexts=(start, replace(tilt, **context)))
    path = save_conditioned((model, spec, initial), tmp_path / "model.onnx")
    with pytest.raises(ModelLoadError) as caught:
        load(modelfile.read(path))
    assert str(caught.value) == message


def no_graph(path: Path) -> None:
    model, spec = leaky()
    model.graph.node[0].op_type = "Nonsense"
    save(model, spec, path)


def no_weights(path: Path) -> None:
    model, spec = leaky()
    del model.graph.initializer[:]
    save(model, spec, path)


@pytest.mark.parametrize(("spoil", "named"), [(no_graph, "Nonsense"), (no_weights, "half")])
def test_a_graph_that_the_runtime_refuses_is_refused_in_one_line(
    spoil: Callable[[Path], None], named: str, tmp_path: Path
) -> None:
    spoil(tmp_path / "model.onnx")
    with pytest.raises(ModelLoadError, match=named) as caught:
        load(modelfile.read(tmp_path / "model.onnx"))
    assert "\n" not in str(caught.value)


def test_a_provider_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        StepModel(file(tmp_path, SPEC), threads=1, providers=("AbacusProvider",))
    message = str(caught.value)
    assert message.startswith("provider 'AbacusProvider' is not available; this ONNX Runtime has ")
    assert "CPUExecutionProvider" in message
