"""What can't become a step model is refused by name and reason, and nothing is written."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import elman_export
from elman_export import UnsupportedModule
from tests.export.refusing import Of, Y, behind, refuse, run


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
        (lambda lstm, x: lstm(x)[1], "returns nothing but final states of its layers"),
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


@pytest.mark.parametrize(
    "forward", [lambda gru, x: gru(x[:, -9:])[0][:, -1], lambda gru, x: gru(x[:, :9])[1][-1]]
)
def test_a_crop(forward: Callable[[Any, Tensor], Any], tmp_path: Path) -> None:
    message = refuse(Of(nn.GRU(3, 4, batch_first=True), forward), tmp_path)
    assert message.startswith("Of does not do the same for sequences of every length")


@pytest.mark.parametrize("what", ["lock", "hidden state"])
def test_a_module_that_can_not_be_copied(what: str, tmp_path: Path) -> None:
    module = Of(nn.GRU(3, 4, batch_first=True), run)
    kept: Any = threading.Lock() if what == "lock" else module(torch.zeros(1, 1, 3))
    vars(module)["kept"] = kept
    message = refuse(module, tmp_path)
    assert message.startswith("'kept' can't be copied (")
    assert message.endswith("such as a hidden state, with .detach()")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"outputs": Y[0]}, "outputs is of type Output; expected is a list, as outputs=["),
        ({"states": elman_export.state("h", 4)}, "states is of type StateSpec; expected is"),
        ({"states": [("h", "c")]}, "states has something of type str; expected is"),
        ({"contexts": elman_export.context("c")}, "contexts is of type ContextSpec; expected is"),
        ({"outputs": [elman_export.values("")]}, "an output has the name ''"),
    ],
)
def test_arguments_that_are_no_lists_of_their_kind(said: Any, message: str, tmp_path: Path) -> None:
    module = Of(nn.GRU(3, 4, batch_first=True), run)
    assert refuse(module, tmp_path, **said).startswith(message)


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
