"""An element that makes a step take for ever, or all memory, ends its own session, and nobody else
waits for it."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from elman.v1 import inference_pb2 as pb
from elman_server.model.repository import ModelSource
from elman_server.serving.loading.loaded import LoadedModel
from tests.server.frontend.conftest import make_config
from tests.server.frontend.harness import LocalServer
from tests.stepmodels import growing, leaky, save, turning

FOR_EVER = 1e18
TIMEOUT = 0.5


@pytest.fixture
async def turning_server(tmp_path: Path) -> AsyncIterator[LocalServer]:
    """Serves `turning`, whose elements say how long a step takes, `growing`, whose elements say how
    large one is, and `leaky`."""
    config = make_config(step_timeout=TIMEOUT, max_step_bytes=64 * 1024 * 1024)
    models = [
        LoadedModel.load(ModelSource(name=name, version="1", path=path), config)
        for name, built in (("turning", turning()), ("growing", growing()), ("leaky", leaky()))
        for path in [save(*built, tmp_path / name / "1/model.onnx")]
    ]
    async with LocalServer(models, config) as server:
        yield server


def one(session: int, element: float) -> pb.Push:
    return pb.Push(sessions=[session], raw=np.float32(element).tobytes())


async def test_the_session_ends_and_others_go_on(turning_server: LocalServer) -> None:
    stream = turning_server.stream("turning")
    await stream.send(opens=[1, 2], push=one(1, FOR_EVER))
    await stream.send(push=one(2, 3.0))
    await stream.ended(1)
    [closed] = stream.closed[1]
    assert closed.reason == pb.CLOSE_REASON_STEP_FAILED
    assert closed.code == grpc.StatusCode.INTERNAL.value[0]
    assert closed.message == (
        "a step took longer than step_timeout, which is 0.5 s; the session's state is lost"
    )
    await stream.answered(2, 1)
    await stream.send(push=one(2, 4.0))
    await stream.answered(2, 2)
    assert stream.values(2) == np.array([3, 7], np.float32).tobytes()
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK


async def test_other_models_answer_meanwhile(turning_server: LocalServer) -> None:
    slow, quick = turning_server.stream("turning"), turning_server.stream("leaky")
    await quick.send(opens=[1])
    await slow.send(opens=[1], push=one(1, FOR_EVER))
    for count in range(1, 21):
        await quick.send(push=one(1, 1.0))
        await quick.answered(1, count)
    assert not slow.closed
    await slow.ended(1)
    for stream in (slow, quick):
        await stream.half_close()
        assert await stream.read_all() is grpc.StatusCode.OK


async def test_what_shares_the_step_gets_what_it_gets_alone(turning_server: LocalServer) -> None:
    streams = [turning_server.stream("turning") for _ in range(6)]
    for stream in streams:
        await stream.send(opens=[1])
        await stream.until(lambda stream=stream: 1 in stream.opened)  # type: ignore[misc]
    for number, stream in enumerate(streams):
        await stream.send(push=one(1, FOR_EVER if number == 2 else number))
    await streams[2].ended(1)
    for number, stream in enumerate(streams):
        if number != 2:
            await stream.answered(1, 1)
            assert stream.values(1) == np.float32(number).tobytes()
        await stream.half_close()
        assert await stream.read_all() is grpc.StatusCode.OK


async def test_a_step_that_would_fill_the_memory_fails_alone(turning_server: LocalServer) -> None:
    # All graphs of a process share the first bound that any was opened with: the default one, if
    # that was another test's.
    too_many = make_config().max_step_bytes / 4
    stream = turning_server.stream("growing")
    await stream.send(opens=[1, 2], push=one(1, too_many))
    await stream.send(push=one(2, 1e6))
    await stream.ended(1)
    [closed] = stream.closed[1]
    assert closed.reason == pb.CLOSE_REASON_STEP_FAILED
    await stream.answered(2, 1)
    assert stream.values(2) == np.float32(1e6).tobytes()
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK
