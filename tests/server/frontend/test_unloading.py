"""Who holds on to a version that is unloaded is told to come again."""

import asyncio

import grpc
import pytest

from elman.v1 import inference_pb2 as pb
from elman_server.serving.served import ServedModel
from tests.server.frontend.harness import Conversation, LocalServer

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def unload(server: LocalServer, version: str) -> ServedModel:
    """As the model manager does."""
    model = server.catalog.get("letters", version)
    server.catalog.remove(model)
    server.endpoint.detach(model)
    await model.stop()
    return model


async def idle(server: LocalServer, version: str) -> Conversation:
    """A stream whose only session has ended."""
    stream = server.stream(version=version)
    await stream.send(opens=[0], closes=[0])
    await stream.ended(0)
    return stream


async def test_a_stream_without_sessions_ends(server: LocalServer) -> None:
    gone, other = await idle(server, "9"), await idle(server, "10")
    await unload(server, "9")
    assert await gone.read_all() is UNAVAILABLE
    assert await gone.details() == "version 9 of model 'letters' was unloaded"
    await other.send(opens=[1], closes=[1])
    await other.ended(1)
    await other.half_close()
    assert await other.read_all() is grpc.StatusCode.OK


async def test_what_had_not_been_read_yet_is_written_first(server: LocalServer) -> None:
    stream = server.stream(version="9")
    await stream.send(opens=[0])
    await stream.push(0, "abc")
    await stream.send(closes=[0])
    await server.until(lambda: server.metric("elman_sessions_closed_total", version="9") == 1)
    await unload(server, "9")
    assert await stream.read_all() is UNAVAILABLE
    assert len(stream.predictions[0]) == 3
    assert stream.closed[0][0].reason == pb.CLOSE_REASON_FINISHED


async def test_a_session_that_crosses_the_end_is_refused(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its RPC has found the version and not taken its frame yet."""
    model = server.catalog.get("letters", "9")
    find = server.catalog.get

    def unload_now() -> None:
        server.catalog.remove(model)
        server.endpoint.detach(model)

    def found(name: str, version: str = "") -> ServedModel:
        asyncio.get_running_loop().call_soon(unload_now)
        return find(name, version)

    monkeypatch.setattr(server.catalog, "get", found)
    stream = server.stream(version="9")
    await stream.send(opens=[0])
    assert await stream.read_all() is UNAVAILABLE
    [closed] = stream.closed[0]
    assert (closed.reason, closed.code) == (pb.CLOSE_REASON_SHUTDOWN, UNAVAILABLE.value[0])
    assert model.engine.sessions == 0
    await model.stop()


async def test_whoever_comes_later_finds_no_such_version(server: LocalServer) -> None:
    await unload(server, "9")
    for version, code in (("9", grpc.StatusCode.NOT_FOUND), ("", grpc.StatusCode.OK)):
        stream = server.stream(version=version)
        await stream.send(opens=[0])
        await stream.half_close()
        assert await stream.read_all() is code
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await server.stub.Predict(pb.PredictRequest(model="letters", version="9", text="a"))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_those_that_are_not_current_are_not_listed_and_can_be_named(
    server: LocalServer,
) -> None:
    current = {model.source for model in server.catalog if model.source.version != "10"}
    server.catalog.update(current=current, expected=())
    listed = await server.stub.ListModels(pb.ListModelsRequest())
    assert [each.version for each in listed.models if each.name == "letters"] == ["9"]
    assert (await server.stub.GetModel(pb.GetModelRequest(name="letters"))).model.version == "9"
    answer = await server.stub.Predict(pb.PredictRequest(model="letters", version="10", text="a"))
    assert answer.version == "10"


async def test_what_is_not_loaded_yet_is_unavailable(server: LocalServer) -> None:
    model = server.catalog.get("letters", "9")
    server.catalog.update(current=(), expected={model.source})
    server.catalog.remove(model)
    stream = server.stream(version="9")
    await stream.send(opens=[0])
    assert await stream.read_all() is UNAVAILABLE
    assert await stream.details() == "version 9 of model 'letters' is not loaded yet"
    for call in (
        server.stub.GetModel(pb.GetModelRequest(name="letters")),
        server.stub.Predict(pb.PredictRequest(model="letters", version="9", text="a")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() is UNAVAILABLE
    server.catalog.add(model)
