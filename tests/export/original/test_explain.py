"""The submodule that mixes steps or rows, or can't take its input, is named."""

from pathlib import Path
from typing import NamedTuple

import pytest
from torch import Tensor, nn

from tests.export.refusing import First, behind, refuse


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


class Two(NamedTuple):
    one: Tensor
    other: Tensor


class Around(nn.Module):
    """Takes its average over time off its input, and is given both as one."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.get_submodule("inner")(Two(x, x * 1))
        return result


class Average(nn.Module):
    def forward(self, both: Two) -> Tensor:
        return both.one - both.other.mean(1, keepdim=True)


def around() -> nn.Module:
    module = Around()
    module.add_module("inner", Average())
    return module


ENCODER = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (behind(Channels(nn.Conv1d(4, 4, 3, padding=1))), "'1.inner' (nn.Conv1d) mixes time"),
        (behind(nn.Linear(4, 4), Causal()), "'2' (Causal) mixes time steps"),
        (behind(Attention()), "'1.heads' (nn.MultiheadAttention) mixes time steps"),
        (behind(ENCODER), "'1.self_attn' (nn.MultiheadAttention) mixes time steps"),
        (behind(around()), "'1.inner' (Average) mixes time steps"),
        (behind(nn.Softmax(1)), "'1' (nn.Softmax) mixes time steps"),
        (
            behind(Channels(nn.BatchNorm1d(4, track_running_stats=False))),
            "'1.inner' (nn.BatchNorm1d) mixes time steps",
        ),
        (behind(Pool(), nn.Linear(4, 2)), "'1' (Pool) mixes time steps"),
    ],
    ids=[
        "convolution",
        "causal",
        "attention",
        "encoder",
        "named tuple",
        "softmax",
        "batch norm",
        "pooling",
    ],
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


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5)


def test_a_module_that_draws_random_numbers_is_told_so(tmp_path: Path) -> None:
    message = refuse(behind(Noise()), tmp_path)
    assert message.startswith("the module says something else when it is given the same again")
