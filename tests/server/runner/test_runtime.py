"""A device that is not there says so, and what helps."""

import numpy as np
import onnx
import onnxruntime
import pytest

from elman_server.runner import graphfile
from elman_server.runner.graphfile import Node, Value
from elman_server.runner.runtime import (
    CPU,
    CUDA_PROVIDER,
    Block,
    Device,
    DeviceUnavailable,
    open_session,
)

without_cuda = pytest.mark.skipif(
    CUDA_PROVIDER in onnxruntime.get_available_providers(), reason="there is a CUDA provider"
)


@pytest.mark.parametrize(
    ("text", "device", "written"),
    [
        ("cpu", CPU, "cpu"),
        ("cuda", Device("cuda", 0), "cuda:0"),
        ("cuda:1", Device("cuda", 1), "cuda:1"),
    ],
)
def test_names_of_devices(text: str, device: Device, written: str) -> None:
    assert Device.parse(text) == device
    assert str(device) == written


def test_the_cpu_is_always_there() -> None:
    CPU.require()


@without_cuda
def test_a_runtime_without_the_provider_says_what_to_install() -> None:
    with pytest.raises(DeviceUnavailable, match=r"pip install 'elman\[server-gpu\]'$"):
        Device("cuda").require()


def test_a_block_holds_what_it_was_made_of() -> None:
    array = np.arange(12, dtype=np.float16).reshape(3, 4)
    block = Block(CPU, array)
    assert np.array_equal(block.read(), array)
    assert block.nbytes == 24
    assert block.address


def test_small_graphs_are_valid_onnx() -> None:
    onnx.checker.check_model(onnx.load_from_string(graphfile.identity()), full_check=True)
    long = [Value("n" * 200, "int64", 1), Value("data", "bool", 3)]
    graph = graphfile.write(
        [Node("Gather", ["data", long[0].name], "rows", axis=1)],
        [*long],
        [Value("rows", "bool", 3)],
    )
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    data = np.random.default_rng(0).random((2, 3, 4)) > 0.5
    [rows] = open_session(graph).run(["rows"], {long[0].name: np.array([2, 0]), "data": data})
    assert np.array_equal(rows, data[:, [2, 0]])
