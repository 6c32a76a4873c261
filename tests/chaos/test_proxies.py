"""Through a proxy with a limit of a request's body: of a stream that is all that it ever sends."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import elman
from tests.chaos.nginx import nginx
from tests.chaos.shells import SHELLS, connected
from tests.serverprocess import ServerProcess
from tests.stepmodels import leaky, save

FRAMES = np.random.default_rng(3).normal(size=(2500, 512)).astype(np.float32)
"""5 MB in elements of 2 KB."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("models")
    save(*leaky(width=512), Path(folder, "frames/1/model.onnx"))
    with ServerProcess(str(folder), "--ticket-key", "00" * 32) as server:
        yield server


@SHELLS
@pytest.mark.parametrize("limit", ["", "client_max_body_size 200k;"])
@pytest.mark.parametrize("window", [None, 256])
async def test_a_stream_gets_through_any_limit(
    server: ServerProcess, shell: str, limit: str, window: int | None
) -> None:
    frames = FRAMES if not limit else FRAMES[:600]
    with nginx(server.target, limit) as proxy:
        async with connected(shell, proxy, timeout=60) as client:
            whole = await (await client.stream("frames", window=window)).all_of(frames)
    with elman.connect(server.target) as direct, direct.stream("frames") as stream:
        name = stream.model.outputs[0].name
        alone = [prediction[name] for prediction in stream.map(frames)]
    assert [prediction.position for prediction in whole] == list(range(len(frames)))
    assert all(np.array_equal(p[name], a) for p, a in zip(whole, alone, strict=True))


@SHELLS
async def test_a_predict_that_is_too_large_for_a_proxy_goes_as_a_stream(
    server: ServerProcess, shell: str
) -> None:
    with nginx(server.target) as proxy:
        async with connected(shell, proxy, timeout=60) as client:
            through = await client.predict("frames", FRAMES[:1000])
    with elman.connect(server.target) as direct:
        alone = direct.predict("frames", FRAMES[:1000])
        name = direct.model("frames").outputs[0].name
    assert np.array_equal(through[name], alone[name])
