"""Graphs as torch's own exporters write them, states baked in as zeros, become step models."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elman_export.original.graphfile import export_graph

Kind = type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]
IDS, HIDDEN, OUT = 20, 16, 5


class Model(nn.Module):
    def __init__(self, kind: Kind, layers: int, head: str, batch_first: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(IDS, 8)
        self.body = kind(8, HIDDEN, layers, batch_first=batch_first)
        self.linear = nn.Linear(HIDDEN, OUT)
        self.head = head
        self.batch_first = batch_first
        # One that learns its first state, and one that starts from zeros.
        self.start = nn.Parameter(torch.randn(layers, 1, HIDDEN)) if layers > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        first = None
        if self.start is not None:
            rows = x.shape[0] if self.batch_first else x.shape[1]
            first = self.start.expand(-1, rows, -1).contiguous()
        hx = (first, first) if isinstance(self.body, nn.LSTM) and first is not None else first
        y, final = self.body(self.embedding(x), hx)
        if self.head == "last":
            y = y[:, -1] if self.batch_first else y[-1]
        elif self.head == "final":
            y = (final[0] if isinstance(final, tuple) else final)[-1]
        elif self.head == "softmax":
            return torch.softmax(self.linear(y), -1)
        result: Tensor = self.linear(y)
        return result


def _written(module: nn.Module, path: Path, *, batch_first: bool, **options: Any) -> Path:
    x = torch.randint(0, IDS, (1, 9))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (x if batch_first else x.T.contiguous(),), path, **options)
    return path


CASES = [
    (nn.LSTM, 2, "steps", True),
    (nn.LSTM, 1, "last", False),
    (nn.GRU, 2, "final", True),
    (nn.GRU, 1, "softmax", True),
    (nn.RNN, 2, "steps", False),
    (nn.LSTM, 2, "final", False),
]


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize(("kind", "layers", "head", "batch_first"), CASES)
def test_the_tracing_exporter(
    kind: Kind, layers: int, head: str, batch_first: bool, fixed: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    axes = {0: "batch", 1: "time"} if batch_first else {0: "time", 1: "batch"}
    path = _written(
        Model(kind, layers, head, batch_first),
        tmp_path / "whole.onnx",
        batch_first=batch_first,
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        **({} if fixed else {"dynamic_axes": {"x": axes}}),
    )
    report = export_graph(path, tmp_path / "step.onnx")
    assert report.spec.time_axis
    assert report.spec.batched
    assert report.spec.input.size == IDS
    assert report.spec.outputs[0].shape == (OUT,)
    assert all((state.initial is None) is (layers == 1) for state in report.spec.states)
    assert report.proof.exact
    assert report.differences[0].maximum < 1e-6


@pytest.mark.parametrize(
    ("kind", "layers", "head", "batch_first"),
    [
        pytest.param(*case, marks=[] if number == 2 else [pytest.mark.slow])
        for number, case in enumerate(CASES)
        # It writes an nn.RNN as operators of its own, over and over for each step.
        if case[0] is not nn.RNN
    ],
)
def test_the_newer_exporter(
    kind: Kind, layers: int, head: str, batch_first: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    path = _written(
        Model(kind, layers, head, batch_first),
        tmp_path / "whole.onnx",
        batch_first=batch_first,
        dynamo=True,
        verbose=False,
    )
    report = export_graph(path, tmp_path / "step.onnx")
    assert report.spec.time_axis
    assert report.spec.batched
    assert report.proof.exact
