"""Networks to export, and a plain ONNX Runtime loop to run what came of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.onnx._internal._lazy_import import onnxscript_apis  # type: ignore[attr-defined]

from elman_server.model import modelfile

Arrays = Mapping[str, np.ndarray]
Steps = Callable[[Path, np.ndarray], Arrays]


class Network(nn.Module):
    """Ids in; a recurrent body; whatever head it is given."""

    def __init__(self, body: nn.RNNBase, head: nn.Module, ids: int = 11) -> None:
        super().__init__()
        self.embedding = nn.Embedding(ids, body.input_size)
        self.body = body
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.body(self.embedding(x))
        result: Tensor = self.head(hidden)
        return result


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # small networks gain nothing from more, and lose on a busy machine


@pytest.fixture(scope="session", autouse=True)
def _one_table() -> Iterator[None]:
    """torch makes its table of ONNX functions anew for every export, which is two fifths of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxscript_apis, "get_torchlib_ops", cache(onnxscript_apis.get_torchlib_ops))
        yield


@pytest.fixture(scope="session")
def network() -> Callable[..., nn.Module]:
    """Makes `network(body)` or `network(body, head)`: ids, embedding, body, per-element head."""

    def make(body: nn.RNNBase, head: nn.Module | None = None) -> nn.Module:
        return Network(body, head or nn.Linear(body.hidden_size, 5))

    return make


@pytest.fixture
def step_by_step() -> Steps:
    """Runs a step model's file on `x [batch, time, ...]`, one element at a time, by its spec."""

    def run(path: Path, x: np.ndarray) -> Arrays:
        spec = modelfile.read(path).spec
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        batch = len(x)
        states = {
            state.input: np.repeat(
                np.expand_dims(state.initial_value(), state.batch_axis), batch, state.batch_axis
            )
            for state in spec.states
        }
        names = [output.name for output in spec.outputs]
        steps: list[Sequence[np.ndarray]] = []
        for position in range(x.shape[1]):
            element = x[:, position : position + 1] if spec.time_axis else x[:, position]
            lengths = {spec.lengths: np.ones(batch, np.int32)} if spec.lengths else {}
            feed = {spec.input.name: element, **lengths, **states}
            fetched = session.run([*names, *(state.output for state in spec.states)], feed)
            answers = fetched[: len(names)]
            steps.append(answers if spec.time_axis else [each[:, None] for each in answers])
            states = {
                state.input: value
                for state, value in zip(spec.states, fetched[len(names) :], strict=True)
            }
        return {
            name: np.concatenate(parts, axis=1)
            for name, parts in zip(names, zip(*steps, strict=True), strict=True)
        }

    return run
