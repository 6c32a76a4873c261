"""What people write around their layers, and heads that read the last step only."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import elman_export
from tests.export.refusing import Of

Steps = Callable[[Path, np.ndarray], Mapping[str, np.ndarray]]

LETTERS = "abcdefghijk"
IDS = np.random.default_rng(3).integers(0, len(LETTERS), (3, 9))


@torch.no_grad()
def whole(module: nn.Module, x: np.ndarray) -> np.ndarray:
    result: np.ndarray = module.eval()(torch.from_numpy(x)).numpy()
    return result


class Letters(nn.Module):
    """Many to one: the sentiment of all letters, from the last step's hidden state or cell."""

    def __init__(self, part: str, batch_first: bool = True) -> None:
        super().__init__()
        self.part = part
        self.embedding = nn.Embedding(len(LETTERS), 4)
        self.lstm = nn.LSTM(4, 6, 2, batch_first=batch_first)
        self.head = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        hidden, (h, c) = self.lstm(self.embedding(x))
        parts = {"output": hidden[:, -1], "state": h[-1], "cell": c[-1]}
        result: Tensor = self.head(parts[self.part])
        return result


@pytest.mark.parametrize(("part", "chunks"), [("output", True), ("state", True), ("cell", False)])
def test_a_head_that_reads_the_last_step_answers_at_every_step(
    part: str, chunks: bool, step_by_step: Steps, tmp_path: Path
) -> None:
    module = Letters(part)
    report = elman_export.export(
        module,
        tmp_path / "m.onnx",
        input=elman_export.text(LETTERS),
        outputs=[elman_export.values("y")],
    )
    assert report.spec.outputs[0].shape == (2,)
    assert report.spec.time_axis is chunks
    expected = np.stack([whole(module, IDS[:, :time]) for time in range(1, 10)], axis=1)
    np.testing.assert_allclose(step_by_step(report.path, IDS)["y"], expected, rtol=0, atol=2e-6)


def test_long_examples_of_a_head_that_reads_the_last_step_are_compared_in_places(
    tmp_path: Path,
) -> None:
    report = elman_export.export(
        Letters("state"),
        tmp_path / "m.onnx",
        input=elman_export.text(LETTERS),
        outputs=[elman_export.values("y")],
        examples=np.random.default_rng(0).integers(0, len(LETTERS), (1, 500)),
    )
    assert report.elements > 500
    assert report.differences[0].maximum < 2e-6


class Speaking(nn.Module):
    """A module in another type, which says so in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 8, batch_first=True).double()
        self.head = nn.Linear(8, 2).double()
        self.offset = torch.ones(8, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        x = x.double() + torch.zeros(len(x), 1, 3, dtype=torch.float64)
        hidden, _ = self.gru(x, torch.full((1, len(x), 8), 0.5).to(torch.float64))
        result: Tensor = self.head(hidden + self.offset)
        return result


def test_a_module_may_name_its_own_type_in_its_forward(step_by_step: Steps, tmp_path: Path) -> None:
    module = Speaking()
    report = elman_export.export(
        module,
        tmp_path / "m.onnx",
        input=elman_export.features(3),
        outputs=[elman_export.values("y")],
    )
    assert report.spec.outputs[0].dtype == "float32"
    x = np.random.default_rng(1).standard_normal((2, 5, 3), np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    assert expected.dtype == np.float64
    np.testing.assert_allclose(step_by_step(report.path, x)["y"], expected, rtol=0, atol=2e-6)


class Idioms(nn.Module):
    """What people write around their layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.gru = nn.GRU(4, 33, 2, batch_first=True)
        self.point = nn.Conv1d(33, 33, 1)
        self.groups = nn.GroupNorm(3, 33)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        weight = next(self.gru.parameters())
        start = weight.new_zeros(self.gru.num_layers, len(x), self.gru.hidden_size)
        hidden, _ = self.gru(x, start)
        hidden = nn.functional.elu(self.point(hidden.transpose(1, 2))).transpose(1, 2)
        hidden = self.groups(hidden.flatten(0, 1)).view(hidden.shape)
        centred = hidden - hidden.mean(-1, keepdim=True)
        size = centred.square().sum(-1, keepdim=True).add(1).log()
        result: Tensor = nn.functional.softplus(centred) * size.sin()
        return result


def test_what_people_write_around_their_layers(step_by_step: Steps, tmp_path: Path) -> None:
    module = Idioms()
    report = elman_export.export(
        module,
        tmp_path / "m.onnx",
        input=elman_export.features(4),
        outputs=[elman_export.values("live")],  # which a function inside calls something too
    )
    x = np.random.default_rng(1).standard_normal((3, 6, 4), np.float32)
    np.testing.assert_allclose(
        step_by_step(report.path, x)["live"], whole(module, x), rtol=1e-5, atol=2e-5
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda gru, x: gru(input=x),
        lambda gru, x: gru(hx=torch.zeros(1, x.shape[0], 4), input=x),
        lambda gru, x: (gru.flatten_parameters(), *gru(x))[1:],
    ],
    ids=["by name", "by name, the state first", "flattened"],
)
def test_a_layer_is_called_as_torch_lets_it(call: Callable[..., Any], tmp_path: Path) -> None:
    def forward(gru: Any, x: Tensor) -> Tensor:
        hidden: Tensor = call(gru, x)[0]
        return hidden

    report = elman_export.export(
        Of(nn.GRU(3, 4, batch_first=True), forward),
        tmp_path / "m.onnx",
        input=elman_export.features(3),
        outputs=[elman_export.values("y")],
    )
    assert report.spec.time_axis
    assert report.differences[0].maximum < 2e-6
