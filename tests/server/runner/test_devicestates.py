"""States on a device; here it is the CPU, whose memory is reached by ONNX Runtime alone."""

import time
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman_server.model.spec import StateSpec
from elman_server.runner.bound import HostMemory, Memory, laid_out
from elman_server.runner.devicestates import DeviceMemory, DeviceStates
from elman_server.runner.hoststates import HostStates
from elman_server.runner.onnx import OnnxRunner, States
from elman_server.runner.runtime import CPU
from tests.server.runner.test_onnx import batch, load
from tests.stepmodels import leaky, save

STATES = [
    StateSpec(name="a", input="a", output="A", dtype="float32", shape=(5,), batch_axis=0),
    StateSpec(name="b", input="b", output="B", dtype="float16", shape=(2, 3), batch_axis=1),
    StateSpec(name="c", input="c", output="C", dtype="bool", shape=(2, 3), batch_axis=2),
    StateSpec(name="d", input="d", output="D", dtype="int64", shape=(), batch_axis=0),
    StateSpec(
        name="e", input="e", output="E", dtype="float64", shape=(1, 2), batch_axis=1, initial=(3, 4)
    ),
]
SPEC = replace(leaky()[1], states=tuple(STATES))


def exchanged(states: States) -> list[bytes]:
    """All that steps find which leave random rows, while the states grow."""
    rng, found, written = np.random.default_rng(7), [], np.zeros(200, bool)
    for number in range(60):
        if number == 30:
            states.grow(100)
        slots = rng.permutation(states.capacity - 1)[: rng.integers(1, 9)]
        before = np.where(written[slots], slots, states.capacity - 1)
        carrier = states.carrier(len(slots))
        carrier.take(slots, before)
        for state in STATES:
            found.append(place(states.memory, f"input {state.input}", state, len(slots)).tobytes())
            left = place(states.memory, f"output {state.output}", state, len(slots))
            left[...] = rng.integers(0, 9, left.shape).astype(state.dtype)
        carrier.put(slots)
        written[slots] = True
    return found


def place(memory: Memory, name: str, state: StateSpec, rows: int) -> NDArray[Any]:
    """Where steps find a state, or leave it. On the CPU a test can look into a device's memory."""
    shape = laid_out(state, rows)
    if isinstance(memory, HostMemory):
        return memory.view(name, shape, state.dtype)
    assert isinstance(memory, DeviceMemory)
    nbytes = prod(shape) * np.dtype(state.dtype).itemsize
    return memory._blocks[name].read()[:nbytes].view(state.dtype).reshape(shape)


def test_rows_of_all_kinds_are_where_they_would_be_on_the_host() -> None:
    host = exchanged(HostStates(SPEC, memory=HostMemory(), capacity=16))
    device = exchanged(DeviceStates(SPEC, device=CPU, capacity=16))
    assert len(host) == 300
    assert device == host


def test_putting_rows_back_writes_in_place() -> None:
    """Or each step would copy the states of all sessions."""

    def seconds(capacity: int) -> float:
        states = DeviceStates(leaky(width=64)[1], device=CPU, capacity=capacity)
        carrier = states.carrier(1)
        slots = np.array([3])
        carrier.take(slots, slots)
        times = []
        for _ in range(20):
            start = time.thread_time()
            carrier.put(slots)
            times.append(time.thread_time() - start)
        return min(times)

    # Copying the 64 MiB would take milliseconds; what is put takes some microseconds.
    assert seconds(2**18) < 20 * seconds(2**6)


def test_a_model_without_states(tmp_path: Path) -> None:
    model, spec = leaky()
    del model.graph.output[1]
    model.graph.node[0].input[0] = "half"
    del model.graph.input[1]
    path = save(model, replace(spec, states=()), tmp_path / "model.onnx")
    loaded = load(path)
    states = DeviceStates(loaded.spec, device=CPU, capacity=64)
    runner = OnnxRunner(loaded, states=states)
    rows = [(slot, np.array([[slot]], np.float32)) for slot in (0, 100)]
    assert runner.run(batch(rows, [0, 1], "y"))["y"].ravel().tolist() == [0.25, 100.25]
