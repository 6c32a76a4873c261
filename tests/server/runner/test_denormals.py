"""Numbers too small for a full mantissa are zero wherever the server computes, on every thread
alike; and nothing else on those threads computes otherwise."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elman_server.model import modelfile
from elman_server.runner.bound import HostMemory
from elman_server.runner.denormals import FLUSHED, as_zero
from elman_server.runner.model import StepModel
from tests.stepmodels import leaky, save

pytestmark = pytest.mark.skipif(not FLUSHED, reason="this machine has nothing to be set")

DENORMAL = np.float32(1e-40)
NORMAL = np.float32(0.5)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> StepModel:
    """Gives what it adds up."""
    file = modelfile.read(save(*leaky(), tmp_path / "model.onnx"))
    return StepModel(file, threads=request.param, providers=("CPUExecutionProvider",))


def step(model: StepModel, value: np.float32) -> list[Any]:
    """All that a step gives for elements and states of that value."""
    spec = model.spec
    elements = np.full((2, 1, *spec.input.shape), value, np.float32)
    states = [np.full((2, *state.shape), value, np.float32) for state in spec.states]
    outputs, after = model.step(elements, None, states, [out.name for out in spec.outputs])
    return [*outputs.values(), *after]


def bound_step(model: StepModel, value: np.float32) -> list[Any]:
    """The outputs of one that is bound to memory, as those of served sessions are."""
    spec, host = model.spec, HostMemory()
    names = frozenset(out.name for out in spec.outputs)
    bound = model.bind(2, 1, names, host=host, memory=host)
    for state in spec.states:
        host.view(f"input {state.input}", (2, *state.shape), state.dtype).fill(value)
    bound.fill(np.full((2, *spec.input.shape), value, np.float32), [1, 1])
    return list(bound.run().values())


STEPS = pytest.mark.parametrize("run", [step, bound_step])


@STEPS
def test_denormals_are_zero(
    model: StepModel, run: Callable[[StepModel, np.float32], list[Any]]
) -> None:
    assert all((array == 0).all() for array in run(model, DENORMAL))
    assert all((array != 0).all() for array in run(model, NORMAL))


@STEPS
def test_denormals_are_zero_on_a_thread_that_was_there_before_the_model(
    model: StepModel, run: Callable[[StepModel, np.float32], list[Any]]
) -> None:
    given: list[list[Any]] = []
    thread = threading.Thread(target=lambda: given.append(run(model, DENORMAL)))
    thread.start()
    thread.join()
    assert all((array == 0).all() for array in given[0])


@STEPS
def test_other_computations_of_the_thread_keep_their_denormals(
    model: StepModel, run: Callable[[StepModel, np.float32], list[Any]]
) -> None:
    run(model, DENORMAL)
    assert DENORMAL * np.float32(1) == DENORMAL


def test_denormals_are_back_when_a_call_raises() -> None:
    with pytest.raises(ValueError), as_zero:
        assert DENORMAL * np.float32(1) == 0
        raise ValueError
    assert DENORMAL * np.float32(1) == DENORMAL
