"""What can't become a step model is refused by name and reason, and nothing is written."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

import elman_export
from elman_export import ExportError, Output, UnsupportedModule

Y: Sequence[Output] = (elman_export.values("y"),)


def refuse(module: nn.Module, path: Path, outputs: Sequence[Output] = Y, **options: Any) -> str:
    """The message with which `module`, which takes 3 features, is refused."""
    with pytest.raises(ExportError) as caught:
        elman_export.export(
            module, path / "m.onnx", input=elman_export.features(3), outputs=outputs, **options
        )
    assert list(path.iterdir()) == []
    return str(caught.value)


class Of(nn.Module):
    """A module with one layer, and a forward of the test's own."""

    def __init__(self, layer: nn.Module, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.layer = layer
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layer, x)


def run(layer: Any, x: Tensor) -> Tensor:
    result: Tensor = layer(x)[0]
    return result


class Custom(nn.LSTM):
    def forward(self, *arguments: Any) -> Any:
        return super().forward(*arguments)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.LSTM(3, 4, bidirectional=True, batch_first=True), "'layer' is bidirectional"),
        (nn.LSTMCell(3, 4), "'layer' is an nn.LSTMCell: a loop over time in forward keeps"),
        (nn.LSTMCell(3, 4), "forward(x, (h, c)) -> y, (h, c)"),
        (nn.GRUCell(3, 4), "states=[elman_export.state('h', 4)]"),
        (Custom(3, 4), "'layer' is a Custom with a forward of its own"),
        (nn.Linear(3, 4), "has no nn.RNN, nn.LSTM or nn.GRU"),
    ],
)
def test_layers_without_an_exact_operator(layer: nn.Module, message: str, tmp_path: Path) -> None:
    assert message in refuse(Of(layer, run), tmp_path)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda lstm, x: lstm(x)[0].transpose(0, 1), "output 'y' has shape [3, 2, 4]"),
        (lambda lstm, x: lstm(x)[0].transpose(0, 1), "it must begin with [2, 3]"),
        (lambda lstm, x: lstm(x)[0].transpose(1, 2), "or be [2, '...'] for the last element only"),
        (lambda lstm, x: lstm(x)[0].mean((0, 1)), "output 'y' has shape [4]"),
        (lambda lstm, x: x, "never runs its recurrent layers ('layer')"),
        (lambda lstm, x: lstm(lstm(x)[0][..., :3])[0], "'layer' runs 2 times"),
        (lambda lstm, x: lstm(x[:, ::2])[0].repeat(1, 2, 1)[:, : x.shape[1]], "along time"),
        (lambda lstm, x: (lstm(x)[0], x), "the module returns 2 outputs, and outputs name 'y'"),
        (lambda lstm, x: {"z": lstm(x)[0]}, "the module returns 'z', and outputs name 'y'"),
        (lambda lstm, x: {"y": "text", **dict(_=lstm(x)[1])}, "output 'y' is a str"),
        (
            lambda lstm, x: lstm(x, (x[:1, :1, :1].expand(1, len(x), 4).contiguous(),) * 2)[0],
            "'layer' is given initial states (h) that differ",
        ),
        (
            lambda lstm, x: lstm(nn.utils.rnn.pack_sequence(list(x)))[0],
            "'layer' is given a PackedSequence",
        ),
        (lambda lstm, x: lstm(x)[0].double(), "output 'y' is float64"),
    ],
)
def test_forwards_that_are_no_stream(
    forward: Callable[[Any, Tensor], Any], message: str, tmp_path: Path
) -> None:
    assert message in refuse(Of(nn.LSTM(3, 4, batch_first=True), forward), tmp_path)


def average(lstm: Any, x: Tensor) -> Tensor:
    hidden: Tensor = lstm(x)[0]
    return hidden - hidden.mean(dim=1, keepdim=True)


def look_ahead(lstm: Any, x: Tensor) -> Tensor:
    hidden: Tensor = lstm(x)[0]
    return hidden.roll(-1, 1)


def across_rows(lstm: Any, x: Tensor) -> Tensor:
    hidden: Tensor = lstm(x)[0]
    return hidden - hidden.mean(dim=0, keepdim=True)


def broadcast_last(lstm: Any, x: Tensor) -> Tensor:
    hidden, (h, _) = lstm(x)
    result: Tensor = hidden + h[-1].unsqueeze(1)
    return result


def explode(lstm: Any, x: Tensor) -> Tensor:
    hidden: Tensor = lstm(x)[0]
    return hidden.log()


@pytest.mark.parametrize("forward", [average, look_ahead, across_rows, broadcast_last])
def test_what_mixes_time_or_rows_fails_its_proof(
    forward: Callable[[Any, Tensor], Tensor], tmp_path: Path
) -> None:
    message = refuse(Of(nn.LSTM(3, 4, batch_first=True), forward), tmp_path)
    assert "output 'y' differs by" in message
    assert "mixes time steps or rows outside of its recurrent layers" in message


def test_what_only_rounds_otherwise_is_told_apart(tmp_path: Path) -> None:
    def angle(lstm: Any, x: Tensor) -> Tensor:
        hidden: Tensor = lstm(x)[0]
        return hidden.atan()

    message = refuse(Of(nn.LSTM(3, 33, batch_first=True), angle), tmp_path)
    assert "an operator rounds otherwise when it is given another number of rows" in message


class Causal(nn.Module):
    """A convolution over what was, not over what will be: it has a state, but none of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        past = nn.functional.pad(x.transpose(1, 2), (2, 0))
        result: Tensor = self.conv(past).transpose(1, 2)
        return result


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.heads(x, x, x)[0]
        return result


class Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=1)


class Channels(nn.Module):
    """Has the features where torch's convolutions and normalisations have them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x.transpose(1, 2)).transpose(1, 2)
        return result


def behind(*modules: nn.Module) -> nn.Module:
    """An LSTM of 4 with modules behind it."""
    return nn.Sequential(First(nn.LSTM(3, 4, batch_first=True)), *modules)


class First(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return run(self.layer, x)


ENCODER = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (behind(Channels(nn.Conv1d(4, 4, 3, padding=1))), "'1.inner' (nn.Conv1d) mixes time"),
        (behind(nn.Linear(4, 4), Causal()), "'2' (Causal) mixes time steps"),
        (behind(Attention()), "'1.heads' (nn.MultiheadAttention) mixes time steps"),
        (behind(ENCODER), "'1.self_attn' (nn.MultiheadAttention) mixes time steps"),
        (behind(nn.Softmax(1)), "'1' (nn.Softmax) mixes time steps"),
        (
            behind(Channels(nn.BatchNorm1d(4, track_running_stats=False))),
            "'1.inner' (nn.BatchNorm1d) mixes time steps",
        ),
        (behind(Pool(), nn.Linear(4, 2)), "'1' (Pool) mixes time steps"),
    ],
    ids=["convolution", "causal", "attention", "encoder", "softmax", "batch norm", "pooling"],
)
def test_a_submodule_that_mixes_steps_is_named(
    module: nn.Module, message: str, tmp_path: Path
) -> None:
    said = refuse(module, tmp_path)
    assert said.startswith(message)
    assert "output 'y'" in said


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (behind(nn.LayerNorm((20, 4))), "'1' (nn.LayerNorm) takes sequences of 20 elements only"),
        (behind(nn.BatchNorm1d(20)), "'1' (nn.BatchNorm1d) takes sequences of 20 elements only"),
        (
            behind(Channels(nn.Linear(20, 20))),
            "'1.inner' (nn.Linear) takes sequences of 20 elements only",
        ),
        (
            behind(nn.Linear(5, 2)),
            "Sequential can't take float32 [2, 3, 3] (2 sequences of 3 elements), in '1' "
            "(nn.Linear): mat1 and mat2 shapes cannot be multiplied (6x4 and 5x2)",
        ),
        (
            nn.Sequential(nn.Linear(4, 3), First(nn.LSTM(3, 4))),
            "Sequential can't take float32 [3, 2, 3] (2 sequences of 3 elements), in '0' "
            "(nn.Linear): mat1 and mat2",
        ),
        (
            nn.Sequential(nn.Embedding(9, 3), First(nn.LSTM(3, 4, batch_first=True))),
            "in '0' (nn.Embedding): Expected tensor for argument #1 'indices'",
        ),
    ],
    ids=["layer norm", "batch norm", "linear", "features", "features first", "ids"],
)
def test_a_submodule_that_can_not_take_its_input_is_named(
    module: nn.Module, message: str, tmp_path: Path
) -> None:
    assert message in refuse(module, tmp_path)


def test_a_module_that_needs_its_state_is_told_of_states(tmp_path: Path) -> None:
    class Needy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(3, 4)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return run(lambda given: self.gru(given, h), x)

    message = refuse(Needy(), tmp_path)
    assert "missing 1 required positional argument: 'h'" in message
    assert "one element at a time, with states=[elman_export.state('h', SIZE)]" in message


def test_weights_of_several_types(tmp_path: Path) -> None:
    message = refuse(behind(nn.Linear(4, 2).double()), tmp_path)
    assert message == (
        "'0.layer.weight_ih_l0' is float32 and '1.weight' is float64; bring the module to one "
        "type, as with .float()"
    )


def test_outputs_that_are_not_finite(tmp_path: Path) -> None:
    message = refuse(Of(nn.LSTM(3, 4, batch_first=True), explode), tmp_path)
    assert message == "the module's own output 'y' is not finite"


def test_a_module_against_its_layers_layout_takes_a_word_from_the_caller(tmp_path: Path) -> None:
    def forward(gru: Any, x: Tensor) -> Tensor:
        result: Tensor = gru(x.transpose(0, 1))[0].transpose(0, 1)
        return result

    module = Of(nn.GRU(3, 4), forward)
    assert "pass batch_first to export" in refuse(module, tmp_path)
    report = elman_export.export(
        module, tmp_path / "m.onnx", input=elman_export.features(3), outputs=Y, batch_first=True
    )
    assert report.differences[0].maximum < 1e-5


def test_a_forward_that_only_fits_one_length(tmp_path: Path) -> None:
    def forward(gru: Any, x: Tensor) -> Tensor:
        if x.shape[1] == 3:
            x = x * 2
        result: Tensor = gru(x)[0]
        return result

    message = refuse(Of(nn.GRU(3, 4, batch_first=True), forward), tmp_path)
    assert message.startswith("Of makes its batch size or length a constant")


def test_what_torch_cannot_trace(tmp_path: Path) -> None:
    def forward(gru: Any, x: Tensor) -> Tensor:
        hidden: Tensor = gru(x)[0]
        return hidden * float(hidden.sum().item() > 0)

    message = refuse(Of(nn.GRU(3, 4, batch_first=True), forward), tmp_path)
    assert message.startswith("torch can't trace Of to a graph: ")
    assert "\n" not in message


def test_what_onnx_lacks_is_named(tmp_path: Path) -> None:
    def forward(gru: Any, x: Tensor) -> Tensor:
        hidden: Tensor = gru(x)[0]
        return hidden.hypot(hidden)

    message = refuse(Of(nn.GRU(3, 4, batch_first=True), forward), tmp_path)
    assert message.startswith("torch can't trace Of to a graph: No ONNX function found for")
    assert "hypot" in message


def test_names_and_labels_that_do_not_fit(tmp_path: Path) -> None:
    module = Of(nn.GRU(3, 4, batch_first=True), run)
    labelled = [elman_export.values("y", labels="abc")]
    message = refuse(module, tmp_path, outputs=labelled)
    assert message == "output 'y' has 3 labels for shape [4]"
    message = refuse(module, tmp_path, outputs=[elman_export.values("input")])
    assert message == "'input' is the name of an input and of an output; rename one"


def test_examples_of_another_shape(tmp_path: Path) -> None:
    module = Of(nn.GRU(3, 4, batch_first=True), run)
    message = refuse(module, tmp_path, examples=np.zeros((2, 3), np.float32))
    assert message == "examples have shape [2, 3]; expected is ['batch', 'time', 3]"


def test_a_file_that_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")
    with pytest.raises(UnsupportedModule):
        elman_export.export(
            Of(nn.LSTM(3, 4, bidirectional=True), run),
            path,
            input=elman_export.features(3),
            outputs=Y,
        )
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_no_keyword_is_swallowed(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        elman_export.export(
            Of(nn.GRU(3, 4), run),
            tmp_path / "m.onnx",
            input=elman_export.features(3),
            outputs=Y,
            opset=20,  # type: ignore[call-arg]
        )


class Step(nn.Module):
    """One element and a state in, whatever a test wants out."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)
        self.function = forward

    def forward(self, *given: Any) -> Any:
        return self.function(self.cell, *given)


H = elman_export.state("h", 4)


def pair(cell: Any, x: Tensor, h: Tensor) -> Any:
    h = cell(x, h)
    return h, h


@pytest.mark.parametrize(
    ("forward", "states", "message"),
    [
        (lambda cell, x, h: cell(x, h), [H], "the module returns 1 tensors; expected are outputs"),
        (lambda cell, x, h: (x, x, cell(x, h)), [H], "returns 2 outputs, and outputs name 'y'"),
        (lambda cell, x, h: {"z": cell(x, h), "h": h}, [H], "returns none, and outputs name 'y'"),
        (lambda cell, x, h: (x, None), [H], "the module returns 2 tensors; expected are outputs"),
        (lambda cell, x, h: (x, cell(x, h)[:, :3]), [H], "comes back as float32 [2, 3]"),
        (lambda cell, x, h: (x, cell(x, h).double()), [H], "comes back as float64 [2, 4]"),
        (lambda cell, x, h: (x.sum(), cell(x, h)), [H], "output 'y' has shape [] for one element"),
        (lambda cell, x, h: (x.mT, cell(x, h)), [H], "output 'y' has shape [3, 2] for one element"),
        (pair, [H, H], "Step can't take float32 [2, 3], float32 [2, 4], float32 [2, 4]: "),
        (pair, [elman_export.state("h", 5)], "in 'cell' (nn.GRUCell): hidden0 has inconsistent"),
        (pair, [elman_export.state("input", 4)], "input names are not unique"),
        (pair, [elman_export.state("y", 4)], "'y' is the name of an input and of an output"),
    ],
)
def test_steps_that_do_not_fit_what_is_said_of_them(
    forward: Callable[..., Any], states: Any, message: str, tmp_path: Path
) -> None:
    assert message in refuse(Step(forward), tmp_path, states=states)


class Across(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_a_step_that_mixes_rows(tmp_path: Path) -> None:
    step = Step(lambda cell, x, h: pair(cell, step.get_submodule("norm")(x), h))
    step.add_module("norm", Across())
    message = refuse(step, tmp_path, states=[H])
    assert message.startswith("'norm' (Across) mixes rows of a batch; so that sessions would meet")


def test_what_is_said_of_a_sequence_is_nothing_to_a_step(tmp_path: Path) -> None:
    message = refuse(Step(pair), tmp_path, states=[H], batch_first=True)
    assert message == "batch_first is of whole sequences; with states, a module takes one element"


def test_a_state_says_what_is_wrong_with_its_first_value() -> None:
    with pytest.raises(ValueError, match=r"'h' has shape \[4\], and its initial value \[3\]"):
        elman_export.state("h", 4, initial=np.zeros(3))
    with pytest.raises(ValueError, match="'h' has an initial value that is no float32"):
        elman_export.state("h", 2, initial=[0.0, float("nan")])


def test_a_vocabulary_is_one_character_each() -> None:
    with pytest.raises(ValueError, match="one character for each id"):
        elman_export.text(["a", "bc"])
    with pytest.raises(ValueError, match="unknown is 'x'"):
        elman_export.text("abc", unknown="x")


def test_a_wrong_size_is_named_with_its_field() -> None:
    with pytest.raises(ValueError) as caught:
        elman_export.features(3, 0)
    assert str(caught.value) == "shape.1 is 0: input should be greater than or equal to 1"
    with pytest.raises(ValueError) as caught:
        elman_export.tokens(0)
    assert str(caught.value) == "input.size is 0; there must be at least 1 id"
