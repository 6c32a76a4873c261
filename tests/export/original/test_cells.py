"""Modules of one element and a state that they take and return themselves."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import elman_export
from tests.export.refusing import refuse

Steps = Callable[[Path, np.ndarray], Mapping[str, np.ndarray]]


class Streaming(nn.Module):
    """One element: cells of three kinds in nested states, and a count of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTMCell(3, 6)
        self.gru = nn.GRUCell(6, 5)
        self.rnn = nn.RNNCell(5, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, deep: Any, m: Tensor, count: Tensor) -> Any:
        (h, c), g = deep
        h, c = self.lstm(x, (h, c))
        g = self.gru(h, g)
        r = self.rnn(g, m)
        m = 0.9 * m + 0.1 * r
        return {"y": self.head(r), "count": count}, ((h, c), g), m, count + 1


def test_cells_of_all_kinds_step_in_one_module(step_by_step: Steps, tmp_path: Path) -> None:
    module = Streaming()
    first, g = torch.randn(6), elman_export.state("g", 5)
    report = elman_export.export(
        module,
        tmp_path / "m.onnx",
        input=elman_export.features(3),
        outputs=[elman_export.values("y"), elman_export.values("count")],
        states=[
            [(elman_export.state("h", 6, initial=first), elman_export.state("c", 6)), g],
            elman_export.state("m", 4, initial=[0.1, 0.2, 0.3, 0.4]),
            elman_export.state("seen", dtype="int64", initial=1),
        ],
    )
    assert [state.name for state in report.spec.states] == ["h", "c", "g", "m", "seen"]
    assert [output.dtype for output in report.spec.outputs] == ["float32", "int64"]
    operators = [node.op_type for node in onnx.load(report.path).graph.node]
    assert operators.count("LSTM") == operators.count("GRU") == 1
    x = np.random.default_rng(1).standard_normal((2, 5, 3), np.float32)
    stepped = step_by_step(report.path, x)
    assert stepped["count"].tolist() == [[1, 2, 3, 4, 5]] * 2
    deep: Any = ((first.expand(2, 6), torch.zeros(2, 6)), torch.zeros(2, 5))
    m, count = torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(2, 4), torch.ones(2, dtype=torch.int64)
    for time in range(5):
        with torch.no_grad():
            outputs, deep, m, count = module(torch.from_numpy(x[:, time]), deep, m, count)
        np.testing.assert_allclose(stepped["y"][:, time], outputs["y"], rtol=0, atol=2e-6)


class Inside(nn.Module):
    """One element, with a layer of many in torch's own layout of its state."""

    def __init__(self, layers: nn.RNNBase) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor, state: Any) -> Any:
        y, state = self.layers(x.unsqueeze(0), state)
        return y.squeeze(0), state


@pytest.mark.parametrize(
    ("layers", "sizes"),
    [(nn.RNN(3, 6, 2), [6]), (nn.LSTM(3, 6, 2, proj_size=4), [4, 6]), (nn.GRU(3, 6, 2), [6])],
    ids=["rnn", "projected", "gru"],
)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")
def test_layers_step_in_a_module_of_one_element(
    layers: nn.RNNBase, sizes: list[int], step_by_step: Steps, tmp_path: Path
) -> None:
    states = [
        elman_export.state(name, 2, size, batch_axis=1)
        for name, size in zip("hc", sizes, strict=False)
    ]
    report = elman_export.export(
        Inside(layers),
        tmp_path / "m.onnx",
        input=elman_export.features(3),
        outputs=[elman_export.values("y")],
        states=[states if len(states) > 1 else states[0]],
    )
    x = np.random.default_rng(1).standard_normal((2, 5, 3), np.float32)
    with torch.no_grad():
        expected = layers(torch.from_numpy(x).transpose(0, 1))[0].transpose(0, 1)
    np.testing.assert_allclose(step_by_step(report.path, x)["y"], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("cell", [nn.LSTMCell(3, 4), nn.GRUCell(3, 4), nn.RNNCell(3, 4)])
def test_a_cell_by_itself_says_its_hidden_state(
    cell: nn.RNNCellBase, step_by_step: Steps, tmp_path: Path
) -> None:
    h, c = elman_export.state("h", 4), elman_export.state("c", 4)
    report = elman_export.export(
        cell,
        tmp_path / "m.onnx",
        input=elman_export.features(3),
        outputs=[elman_export.values("y")],
        states=[(h, c) if isinstance(cell, nn.LSTMCell) else h],
    )
    x = np.random.default_rng(1).standard_normal((2, 1, 3), np.float32)
    with torch.no_grad():
        expected = cell(torch.from_numpy(x[:, 0]))
    expected = expected[0] if isinstance(expected, tuple) else expected
    np.testing.assert_allclose(step_by_step(report.path, x)["y"][:, 0], expected, atol=1e-6)


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


def test_a_cell_is_called_by_name(tmp_path: Path) -> None:
    report = elman_export.export(
        Step(lambda cell, x, h: (h, cell(hx=h, input=x))),
        tmp_path / "m.onnx",
        input=elman_export.features(3),
        outputs=[elman_export.values("y")],
        states=[H],
    )
    assert report.differences[0].maximum < 2e-6


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
