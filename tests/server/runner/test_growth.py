"""Where there is no memory for more rows a step fails, and nothing else changes."""

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper

from elman_server.model.spec import StateSpec
from elman_server.runner.bound import HostMemory
from elman_server.runner.devicestates import DeviceStates
from elman_server.runner.hoststates import HostStates
from elman_server.runner.onnx import OnnxRunner, States
from elman_server.runner.runtime import CPU
from tests.server.runner.test_onnx import batch, load
from tests.stepmodels import leaky, save

WIDTH = 4096
SMALL = StateSpec(
    name="small", input="small", output="small_next", dtype="float32", shape=(1,), batch_axis=0
)
SPEC = replace(leaky(width=WIDTH)[1], states=(SMALL, *leaky(width=WIDTH)[1].states))
"""Of a state whose growth is a matter of some KiB, and one, after it, of 16 KiB a row."""
FAR = 40_000
"""A slot that takes growth to 2^16 rows: 256 KiB of the small state, 1 GiB of the large one."""

limits = pytest.mark.skipif(sys.platform != "linux", reason="no limit of memory that holds")


@contextmanager
def memory_left(nbytes: int) -> Iterator[None]:
    """What is reserved beyond, in this process, is refused by the system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@limits
@pytest.mark.usefixtures("place")
def test_sessions_go_on_and_begin_as_if_the_growth_had_not_been_tried(tmp_path: Path) -> None:
    model, spec = leaky(width=WIDTH)
    model.graph.node.append(helper.make_node("Identity", [SMALL.input], [SMALL.output]))
    for values, name in ((model.graph.input, SMALL.input), (model.graph.output, SMALL.output)):
        values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]))
    spec = replace(spec, states=(SMALL, *spec.states))
    runner = OnnxRunner(load(save(model, spec, tmp_path / "model.onnx")))

    def step(slot: int, value: float, *, fresh: bool) -> float:
        elements = np.full((1, WIDTH), value, np.float32)
        outputs = runner.run(batch([(slot, elements)], [0] if fresh else [], "y"))
        found: set[float] = set(outputs["y"].ravel().tolist())
        (one,) = found
        return one

    assert step(3, 8, fresh=True) == 8
    reserved = runner.state_nbytes
    with memory_left(2**28), pytest.raises(MemoryError):
        step(FAR, 1, fresh=True)
    assert runner.state_nbytes == reserved
    assert step(62, 100, fresh=True) == 100
    # Of 64 rows the last is the initial one. It is nobody's slot before the rows have grown.
    assert step(63, 1000, fresh=True) == 1000
    assert step(5, 16, fresh=True) == 16
    assert [step(slot, 0, fresh=False) for slot in (3, 5, 62, 63)] == [4, 8, 50, 500]
    assert step(200, 2, fresh=True) == 2
    assert [step(slot, 0, fresh=False) for slot in (3, 5, 62, 63, 200)] == [2, 4, 25, 250, 1]


def on_host() -> States:
    return HostStates(SPEC, memory=HostMemory(), capacity=8)


def on_device() -> States:
    return DeviceStates(SPEC, device=CPU, capacity=8)


@limits
@pytest.mark.parametrize("make", [on_host, on_device])
def test_states_that_could_not_grow_have_the_room_and_the_carriers_that_they_had(
    make: Callable[[], States],
) -> None:
    states = make()
    carrier, reserved = states.carrier(1), states.nbytes
    with memory_left(2**28), pytest.raises(MemoryError):
        states.grow(2**16)
    assert (states.capacity, states.nbytes) == (8, reserved)
    carrier.take(np.array([3]), np.array([7]))
    carrier.put(np.array([3]))


def test_a_row_that_is_not_there_is_an_error_and_not_another_row() -> None:
    states = on_host()
    carrier = states.carrier(2)
    carrier.take(np.array([0, 1]), np.array([7, 1]))
    with pytest.raises(IndexError, match="row 8 of 8"):
        carrier.take(np.array([0, 1]), np.array([8, 1]))
    with pytest.raises(IndexError):
        carrier.put(np.array([8, 1]))
    states.grow(16)
    # Nor is there one for a carrier from before.
    with pytest.raises(IndexError, match="row 15 of 8"):
        carrier.take(np.array([0, 1]), np.array([0, 15]))
    states.carrier(2).take(np.array([0, 1]), np.array([0, 15]))
