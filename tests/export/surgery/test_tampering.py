"""The proof catches a step model whose states are not carried as the network's are."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman_export.candidate import Candidate
from elman_export.errors import ProofFailed
from elman_export.original.graphfile import export_graph
from elman_export.proof.proof import Case, Sequences, prove
from elman_export.proof.stepmodel import Session, StepModel
from elman_server.model import modelfile
from elman_server.model.spec import ModelSpec
from tests.export.surgery.graphs import (
    FEATURES,
    HIDDEN,
    TIME,
    Graph,
    batch_major,
    linear,
    time_major,
)

Tamper = Callable[[ModelSpec], ModelSpec]


@dataclass
class Lifted:
    whole: Session
    model: onnx.ModelProto
    spec: ModelSpec

    def case(self, x: np.ndarray) -> Case:
        return Case(Sequences(elements=x), self.whole.run(["y"], {"x": x}))

    def prove(self, spec: ModelSpec, model: onnx.ModelProto | None = None) -> None:
        x = np.random.default_rng(0).normal(size=(3, TIME, FEATURES)).astype("f")
        prove(
            StepModel.of(Candidate(model=model or self.model, spec=spec)),
            [self.case(x)],
            seed=0,
            tolerance=1e-4,
            exact=False,
        )


@pytest.fixture(scope="module")
def lifted(tmp_path_factory: pytest.TempPathFactory) -> Lifted:
    """Two LSTMs with a GRU between them: five states of one shape."""
    folder: Path = tmp_path_factory.mktemp("tampering")
    graph = Graph()
    graph.input("x", ["batch", "time", FEATURES])
    x, width = time_major(graph, "x"), FEATURES
    for operator in ("LSTM", "GRU", "LSTM"):
        y = graph.recurrent(operator, x, width)
        x, width = graph.add("Squeeze", [y, graph.constant(np.array([1]))]), HIDDEN
    linear(graph, batch_major(graph, y), "y")
    graph.output("y")
    path = graph.save(folder / "whole.onnx")
    report = export_graph(path, folder / "step.onnx")
    spec = modelfile.read(report.path).spec
    return Lifted(Session(path.read_bytes()), onnx.load(report.path), spec)


def test_the_step_model_as_it_is_is_proved(lifted: Lifted) -> None:
    lifted.prove(lifted.spec)


@given(order=st.permutations(range(5)))
def test_any_wrong_pairing_of_states_is_caught(order: list[int], lifted: Lifted) -> None:
    states = lifted.spec.states
    outputs = [states[at].output for at in order]
    spec = replace(
        lifted.spec,
        states=tuple(replace(s, output=o) for s, o in zip(states, outputs, strict=True)),
    )
    if order == sorted(order):
        lifted.prove(spec)
        return
    with pytest.raises(
        ProofFailed, match=r"output 'y' of the step model differs from the module's"
    ):
        lifted.prove(spec)


@given(at=st.integers(0, 4), fresh=st.booleans())
def test_any_state_that_is_dropped_or_held_is_caught(at: int, fresh: bool, lifted: Lifted) -> None:
    """Dropped: every step starts from zeros again. Held: the state comes back as it went in."""
    state = lifted.spec.states[at]
    model = onnx.ModelProto()
    model.CopyFrom(lifted.model)
    for node in model.graph.node:
        node.output[:] = ["lost" if name == state.output else name for name in node.output]
    made = onnx.helper.make_node("Identity", [state.input], [state.output])
    if fresh:
        made = onnx.helper.make_node("Sub", [state.input, state.input], [state.output])
    model.graph.node.append(made)
    with pytest.raises(ProofFailed, match="differs from the module's"):
        lifted.prove(lifted.spec, model)


@given(at=st.integers(0, 4), value=st.floats(0.05, 1).map(lambda v: np.float32(v).item()))
def test_any_other_first_state_is_caught(at: int, value: float, lifted: Lifted) -> None:
    states = list(lifted.spec.states)
    states[at] = replace(states[at], initial=(value,) * HIDDEN)
    with pytest.raises(ProofFailed, match="differs from the module's"):
        lifted.prove(replace(lifted.spec, states=tuple(states)))


@given(time=st.integers(1, 12), batch=st.integers(1, 6), seed=st.integers(0, 99))
def test_a_true_step_model_is_proved_on_any_sequences(
    time: int, batch: int, seed: int, lifted: Lifted
) -> None:
    x = np.random.default_rng(seed).normal(size=(batch, time, FEATURES)).astype("f")
    proof = prove(
        StepModel.of(Candidate(model=lifted.model, spec=lifted.spec)),
        [lifted.case(x)],
        seed=seed,
        tolerance=1e-4,
        exact=True,
    )
    assert proof.exact
    assert {each.way for each in proof.comparisons} == {
        "whole",
        "one element at a time",
        "in random chunks",
        "in ragged batches",
        "each row alone",
    }
