"""A step model that is not the same network is caught, however it came about."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import elman_export
from elman_export import ProofFailed
from elman_export.candidate import Candidate
from elman_export.proof.proof import Case, Sequences, prove
from elman_export.proof.stepmodel import StepModel
from elman_server.model.spec import ModelSpec, StateSpec

Network = Callable[..., nn.Module]

SEQUENCES = [Sequences(elements=np.random.default_rng(5).integers(0, 11, (3, 12)))]


@dataclass
class Exported:
    """A module of two LSTM layers and its step model, to be tampered with."""

    module: nn.Module
    spec: ModelSpec
    model: onnx.ModelProto

    def prove(self, spec: ModelSpec | None = None) -> tuple[elman_export.Difference, ...]:
        with torch.no_grad():
            cases = [
                Case(x, {"y": self.module(torch.from_numpy(x.elements)).numpy()}) for x in SEQUENCES
            ]
        model = StepModel.of(Candidate(model=self.model, spec=spec or self.spec))
        return prove(model, cases, seed=0, tolerance=1e-4).differences

    def with_states(self, *states: StateSpec) -> ModelSpec:
        return replace(self.spec, states=states)


@pytest.fixture(scope="module")
def untouched(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    module = network(nn.LSTM(6, 7, 2, batch_first=True)).eval()
    path = tmp_path_factory.mktemp("untouched") / "m.onnx"
    spec = elman_export.export(
        module, path, input=elman_export.tokens(11), outputs=[elman_export.values("y")]
    ).spec
    return Exported(module, spec, onnx.load(path))


@pytest.fixture
def exported(untouched: Exported) -> Exported:
    return replace(untouched, model=deepcopy(untouched.model))


def test_the_spec_that_was_made_is_proved(exported: Exported) -> None:
    (difference,) = exported.prove()
    assert difference.output == "y"
    assert difference.tolerance is not None
    assert difference.maximum <= 1e-6 < difference.tolerance


def test_h_and_c_swapped_are_caught(exported: Exported) -> None:
    h, c, *rest = exported.spec.states
    swapped = exported.with_states(replace(h, output=c.output), replace(c, output=h.output), *rest)
    with pytest.raises(ProofFailed, match="differs by"):
        exported.prove(swapped)


def test_layers_swapped_are_caught(exported: Exported) -> None:
    h0, c0, h1, c1 = exported.spec.states
    swapped = exported.with_states(
        replace(h0, output=h1.output), c0, replace(h1, output=h0.output), c1
    )
    with pytest.raises(ProofFailed, match="differs by"):
        exported.prove(swapped)


def test_a_state_that_is_not_handed_on_is_caught(exported: Exported) -> None:
    graph = exported.model.graph
    name = exported.spec.states[0].output
    for node in graph.node:
        node.output[:] = ["dropped" if output == name else output for output in node.output]
    graph.node.append(onnx.helper.make_node("Identity", [exported.spec.states[0].input], [name]))
    with pytest.raises(ProofFailed, match="differs by"):
        exported.prove()


def test_another_initial_state_is_caught(exported: Exported) -> None:
    first, *rest = exported.spec.states
    other = exported.with_states(replace(first, initial=(0.5,) * 7), *rest)
    with pytest.raises(ProofFailed, match="output 'y' of the step model differs from the module's"):
        exported.prove(other)


def test_lengths_that_are_not_read_are_caught(exported: Exported) -> None:
    for node in exported.model.graph.node:
        node.input[:] = ["" if name == "lengths" else name for name in node.input]
    with pytest.raises(ProofFailed, match="in ragged batches"):
        exported.prove()


def test_weights_that_are_a_little_off_are_caught(exported: Exported) -> None:
    initializer = next(
        each for each in exported.model.graph.initializer if each.name.endswith("1.R")
    )
    values = onnx.numpy_helper.to_array(initializer) + np.float32(1e-2)
    initializer.CopyFrom(onnx.numpy_helper.from_array(values, initializer.name))
    with pytest.raises(ProofFailed, match="of the step model differs from the module's"):
        exported.prove()


def test_a_failed_proof_leaves_no_file(network: Network, tmp_path: Path) -> None:
    # A tolerance of nothing: the module's own kernels round otherwise than ONNX Runtime's.
    with pytest.raises(ProofFailed, match="allowed are 0"):
        elman_export.export(
            network(nn.LSTM(6, 32, 2, batch_first=True)),
            tmp_path / "m.onnx",
            input=elman_export.tokens(11),
            outputs=[elman_export.values("y")],
            tolerance=0.0,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def gru(tmp_path_factory: pytest.TempPathFactory) -> StepModel:
    torch.manual_seed(0)

    class Gru(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(2, 9, 2, batch_first=True)
            self.head = nn.Linear(9, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.head(self.gru(x)[0])
            return result

    path = tmp_path_factory.mktemp("proof") / "m.onnx"
    spec = elman_export.export(
        Gru(), path, input=elman_export.features(2), outputs=[elman_export.values("y")]
    ).spec
    return StepModel(path.read_bytes(), spec)


@given(data=st.data())
def test_however_sequences_are_cut_up_and_batched_each_row_is_as_if_alone(
    data: st.DataObject, gru: StepModel
) -> None:
    batch, time = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 12))
    chunks = data.draw(st.integers(1, time))
    x = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal((batch, time, 2))
    x = x.astype(np.float32)
    inner = st.permutations(range(1, time)).map(lambda places: sorted(places[: chunks - 1]))
    cuts = [np.diff([0, *data.draw(inner), time]).tolist() for _ in range(batch)]
    together = gru.run(x, cuts)
    for row in range(batch):
        alone = gru.run(x[row : row + 1], [[1] * time])
        np.testing.assert_array_equal(together.outputs["y"][row], alone.outputs["y"][0])
        for name, value in alone.states.items():
            np.testing.assert_array_equal(together.states[name][row], value[0])
