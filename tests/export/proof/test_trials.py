"""What a proof runs on finds what depends on length, and on the elements that people pad with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import elman_export
from elman_export import ExportError, ProofFailed, UnsupportedModule
from elman_export.interface import States
from elman_export.proof.proof import answered
from elman_export.proof.stepmodel import Arrays, RuntimeFailed
from elman_export.proof.trials import trials
from tests.export.refusing import Of, Y, refuse, run


@pytest.mark.parametrize("places", [lambda at: at < 50, lambda at: at // 64 + 1])
def test_what_depends_on_a_late_position_is_refused(places: Any, tmp_path: Path) -> None:
    def forward(gru: Any, x: Tensor) -> Tensor:
        factors: Tensor = places(torch.arange(x.shape[1]))
        return run(gru, x) * factors.view(1, -1, 1)

    message = refuse(Of(nn.GRU(3, 4, batch_first=True), forward), tmp_path)
    assert "mixes time steps or rows outside of its recurrent layers" in message


class Placed(nn.Module):
    """A cell that adds what it has learned of each of the first hundred places."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)
        self.places = nn.Embedding(100, 4)

    def forward(self, x: Tensor, h: Tensor, place: Tensor) -> Any:
        h = self.cell(x, h)
        return h + self.places(place), h, place + 1


def test_a_cell_that_counts_to_an_end_is_refused(tmp_path: Path) -> None:
    states: list[States] = [elman_export.state("h", 4), elman_export.state("n", dtype="int64")]
    message = refuse(Placed(), tmp_path, states=states)
    assert message.startswith("at element 100 of a sequence, Placed can't take")
    assert message.endswith("'places' (nn.Embedding): it holds the ids 0 to 99, and is given 100")


class Padded(nn.Module):
    """Answers for the last element that is no padding: zero, a frame or an id."""

    def __init__(self, ids: int | None = None) -> None:
        super().__init__()
        self.embedding = nn.Identity() if ids is None else nn.Embedding(ids, 3)
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        real = (x if x.ndim == 2 else x.abs().sum(-1)) != 0
        hidden = run(self.gru, self.embedding(x))
        return hidden[torch.arange(x.shape[0]), real.sum(1) - 1]


@pytest.mark.parametrize(
    ("module", "input"),
    [
        (Padded(20_000), elman_export.tokens(20_000)),
        (Padded(), elman_export.features(3)),
    ],
    ids=["ids", "frames"],
)
def test_a_module_that_looks_for_padding_is_refused(
    module: nn.Module, input: Any, tmp_path: Path
) -> None:
    with pytest.raises(ProofFailed, match=r"differs from the module's by .* \(padded sequences,"):
        elman_export.export(module, tmp_path / "m.onnx", input=input, outputs=Y)


def test_an_input_of_more_ids_than_the_module_has_is_refused(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Embedding(3000, 3), Of(nn.GRU(3, 4, batch_first=True), run))
    with pytest.raises(UnsupportedModule) as caught:
        elman_export.export(module, tmp_path / "m.onnx", input=elman_export.tokens(3001), outputs=Y)
    assert str(caught.value).endswith(
        "in '0' (nn.Embedding): it holds the ids 0 to 2999, and is given 3000"
    )


def test_an_original_that_fails_on_the_input_is_told_on_what() -> None:
    def answer(_: object) -> Arrays:
        raise RuntimeFailed("idx=5 must be within the inclusive range [-5,4]")

    sequences = trials(elman_export.tokens(6), (), seed=0)
    with pytest.raises(RuntimeFailed, match="fails on random sequences of the input as it is"):
        answered(sequences, answer)


def test_a_module_that_is_none_of_zeros_is_compared_without_them(tmp_path: Path) -> None:
    def forward(gru: Any, x: Tensor) -> Tensor:
        return run(gru, x / x.norm(dim=-1, keepdim=True))

    report = elman_export.export(
        Of(nn.GRU(3, 4, batch_first=True), forward),
        tmp_path / "m.onnx",
        input=elman_export.features(3),
        outputs=Y,
    )
    assert {each.input for each in report.proof.comparisons} == {"random"}


@pytest.mark.parametrize("examples", [[[[1.0, 2.0, 3.0]]], torch.ones(1, 1, 3)])
def test_examples_are_whatever_numpy_makes_an_array_of(examples: Any) -> None:
    *_, last = trials(elman_export.features(3), (), examples=examples, seed=0)
    assert (last.source, last.elements.shape) == ("examples", (1, 1, 3))


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([[1, 2], [3]], "examples are no array: "),
        (torch.ones(1, 1, requires_grad=True), "examples are no array: "),
        (["ab"], "expected are numbers, and at least one sequence of one element"),
        (np.array([[0.9, 1.7]]), "examples must be ids from 0 to 4"),
        ([[0, 5]], "examples must be ids from 0 to 4"),
    ],
)
def test_examples_that_do_not_fit(examples: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        trials(elman_export.tokens(5), (), examples=examples, seed=0)
