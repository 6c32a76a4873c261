"""A server whose sessions' states are on a device."""

import asyncio
import random
from pathlib import Path

import onnxruntime
import pytest

import elman
import elman.aio
from elman_server.config import ServerConfig
from elman_server.model.repository import ModelSource
from elman_server.runner import onnx
from elman_server.runner.bound import HostMemory
from elman_server.runner.devicestates import DeviceStates
from elman_server.runner.model import StepModel
from elman_server.runner.runtime import CPU, CUDA_PROVIDER
from elman_server.serving.loading.loaded import LoadedModel
from tests.oracle import Oracle
from tests.server.frontend.harness import LocalServer
from tests.serverprocess import ServerProcess
from tests.stepmodels import ALPHABET, save_lstm


@pytest.mark.skipif(
    CUDA_PROVIDER in onnxruntime.get_available_providers(), reason="there is a CUDA provider"
)
def test_the_cpu_takes_the_place_of_a_gpu_that_is_not_there(repository: Path) -> None:
    path = save_lstm(repository / "letters/1/model.onnx")
    with ServerProcess(str(repository), "--device", "cuda:1") as server:
        with elman.connect(server.target) as client:
            found = [row["next"].tobytes() for row in client.predict("letters", "as ever")]
        assert server.terminate() == 0
    assert found == [row["next"].tobytes() for row in Oracle(path).run("as ever")]
    [warning] = [line for line in server.log if line["level"] == "warning"]
    assert warning["event"] == "device not available, the CPU serves"
    assert warning["device"] == "cuda:1"
    assert warning["why"].endswith("pip install 'elman[server-gpu]'")
    assert server.event("model ready")["device"] == "cpu"


async def test_sessions_on_a_device_are_exact_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is the CPU, treated as if its memory were out of reach."""
    used: list[DeviceStates] = []

    def far_away(model: StepModel, host: HostMemory) -> DeviceStates:
        used.append(DeviceStates(model.spec, device=CPU, capacity=4))
        return used[-1]

    monkeypatch.setattr(onnx, "_states", far_away)
    path = save_lstm(tmp_path / "model.onnx", hidden=32, layers=2)
    config = ServerConfig(repository=tmp_path, port=0, max_batch_size=16, max_chunk=8)
    source = ModelSource(name="letters", version="1", path=path)
    rng = random.Random(4)
    texts = ["".join(rng.choices(ALPHABET, k=rng.randint(1, 60))) for _ in range(50)]
    async with (
        LocalServer([LoadedModel.load(source, config)], config) as server,
        elman.aio.connect(server.target) as client,
    ):

        async def read(text: str) -> list[bytes]:
            async with client.stream("letters") as stream:
                return [each["next"].tobytes() async for each in stream.map(text)]

        found = await asyncio.gather(*map(read, texts))
    oracle = Oracle(path)
    assert found == [[row["next"].tobytes() for row in oracle.run(text)] for text in texts]
    assert used[0].capacity >= 51
