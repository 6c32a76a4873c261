"""The services behind the transport's port, over a transport in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from elman.v1 import inference_pb2 as pb
from elman_server.durable.tickets.keys import new_key
from elman_server.frontend.caller import Caller
from elman_server.frontend.gate import gate, slow_readers
from elman_server.frontend.status import Code
from elman_server.serving.loading.loaded import LoadedModel
from tests.server.frontend.conftest import make_config
from tests.server.frontend.harness import LocalServer, open_, push
from tests.server.frontend.memory import MemoryCall, MemoryTransport

Answer = TypeVar("Answer", bound=Message)
Serve = Callable[..., AbstractAsyncContextManager[LocalServer]]
PREDICT, STREAM = "elman.v1.Inference/Predict", "elman.v1.Inference/Stream"
HEALTH = "grpc.health.v1.Health/Check"


@pytest.fixture
def transport() -> MemoryTransport:
    return MemoryTransport()


@pytest.fixture
def serve(models: list[LoadedModel], transport: MemoryTransport) -> Serve:
    return lambda **config: LocalServer(models, make_config(**config), transport)


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[LocalServer]:
    async with serve() as running:
        yield running


async def answer(call: MemoryCall, kind: type[Answer]) -> Answer:
    data = await call.receive()
    assert data is not None
    return kind.FromString(data)


def stream(transport: MemoryTransport, *frames: pb.StreamRequest, **caller: str) -> MemoryCall:
    requests = [frame.SerializeToString() for frame in frames]
    return transport.call(STREAM, *requests, caller=Caller(peer="memory:", **caller))


async def responses(call: MemoryCall) -> pb.StreamResponse:
    """All that comes until the end of the call, in one message."""
    joined = pb.StreamResponse()
    while (data := await call.receive()) is not None:
        joined.MergeFromString(data)
    return joined


def values(response: pb.StreamResponse) -> bytes:
    return b"".join(part.outputs[0].values for part in response.predictions)


async def test_a_unary_call_is_answered(
    server: LocalServer, transport: MemoryTransport, logits: Any
) -> None:
    request = pb.PredictRequest(model="letters", text="hello").SerializeToString()
    call = transport.call(PREDICT, request)
    response = await answer(call, pb.PredictResponse)
    assert response.outputs[0].values == logits("hello")
    assert await call.receive() is None
    assert (await call.ended()).code is Code.OK
    handled = {"grpc_method": "Predict", "grpc_code": "OK"}
    assert server.metric("grpc_server_handled_total", **handled) == 1


async def test_models_and_health_are_told(server: LocalServer, transport: MemoryTransport) -> None:
    call = transport.call("elman.v1.Inference/ListModels", b"")
    names = {model.name for model in (await answer(call, pb.ListModelsResponse)).models}
    assert names == {"letters", "numbers", "leaky"}
    request = health_pb2.HealthCheckRequest(service="letters").SerializeToString()
    call = transport.call(HEALTH, request)
    health = await answer(call, health_pb2.HealthCheckResponse)
    assert health.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_stream_answers_its_sessions_and_ends_after_a_half_close(
    server: LocalServer, transport: MemoryTransport, logits: Any
) -> None:
    call = stream(
        transport,
        pb.StreamRequest(model="letters", opens=[open_(1)], push=push({1: "hel"})),
        pb.StreamRequest(push=push({1: "lo"})),
    )
    call.half_close()
    response = await responses(call)
    assert call.metadata is not None
    assert call.metadata[0][0] == "elman-server"
    assert [opened.session for opened in response.opened] == [1]
    assert values(response) == logits("hello")
    assert [closed.reason for closed in response.closed] == [pb.CLOSE_REASON_FINISHED]
    assert (await call.ended()).code is Code.OK


async def test_a_cancelled_stream_frees_its_sessions(
    server: LocalServer, transport: MemoryTransport
) -> None:
    call = stream(transport, pb.StreamRequest(model="letters", opens=[open_(1), open_(2)]))
    await server.until(lambda: server.admission.sessions == 2)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.ended()
    await server.until(lambda: server.admission.sessions == 0)
    handled = {"grpc_method": "Stream", "grpc_code": "CANCELLED"}
    assert server.metric("grpc_server_handled_total", **handled) == 1


@pytest.mark.parametrize(
    ("method", "request_", "code", "message"),
    [
        (PREDICT, b"\xff", Code.INVALID_ARGUMENT, "no elman.v1.PredictRequest"),
        (
            PREDICT,
            pb.PredictRequest(model="nothing", text="a").SerializeToString(),
            Code.NOT_FOUND,
            "nothing",
        ),
        (
            PREDICT,
            pb.PredictRequest(model="letters", text="?").SerializeToString(),
            Code.INVALID_ARGUMENT,
            "element at position 0",
        ),
        (STREAM, b"\xff", Code.INVALID_ARGUMENT, "no elman.v1.StreamRequest"),
        (STREAM, b"", Code.INVALID_ARGUMENT, "names no `model`"),
        (
            STREAM,
            pb.StreamRequest(model="nothing").SerializeToString(),
            Code.NOT_FOUND,
            "nothing",
        ),
    ],
)
async def test_errors_are_statuses(
    server: LocalServer,
    transport: MemoryTransport,
    method: str,
    request_: bytes,
    code: Code,
    message: str,
) -> None:
    call = transport.call(method, request_)
    status = await call.ended()
    assert status.code is code
    assert message in status.message


async def test_a_call_beyond_the_limit_is_refused_with_a_time_to_come_back(
    serve: Serve, transport: MemoryTransport
) -> None:
    async with serve(max_calls=1, retry_after=3) as server:
        first = stream(transport, pb.StreamRequest(model="letters", opens=[open_(1)]))
        await server.until(lambda: server.admission.sessions == 1)
        status = await transport.call(PREDICT).ended()
        assert status.code is Code.RESOURCE_EXHAUSTED
        assert status.trailers == (("grpc-retry-pushback-ms", "3000"),)
        first.half_close()
        await first.ended()


async def test_a_stream_that_is_not_read_ends(
    serve: Serve, transport: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_readers, "_LOOK_SECONDS", 0.01)
    async with serve(read_timeout=0.3) as server:
        call = stream(transport, pb.StreamRequest(model="letters", opens=[open_(1)]))
        call.reads.clear()
        status = await call.ended()
        assert status.code is Code.UNAVAILABLE
        assert "read nothing for 0.3 s" in status.message
        assert server.admission.sessions == 0


async def test_an_answer_that_is_not_taken_costs_the_connection(
    server: LocalServer, transport: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_TAKEN_SECONDS", 0.05)
    request = pb.PredictRequest(model="letters", text="hello").SerializeToString()
    call = transport.call(PREDICT)
    call.reads.clear()
    call.send(request)
    with pytest.raises(asyncio.CancelledError):
        await call.ended()
    assert call.cuts == ["unread"]


async def test_a_ticket_belongs_to_its_callers_identity(
    serve: Serve, transport: MemoryTransport, logits: Any
) -> None:
    async with serve(ticket_key=(new_key(),)):
        frames = [
            pb.StreamRequest(model="letters", opens=[open_(1)], push=push({1: "hel"}), tickets=[1])
        ]
        call = stream(transport, *frames, identity="alice")
        call.half_close()
        first = await responses(call)
        [ticket] = first.tickets
        again = pb.StreamRequest(
            model="letters", opens=[pb.Open(session=1, ticket=ticket.ticket)], push=push({1: "lo"})
        )
        call = stream(transport, again, identity="alice")
        call.half_close()
        assert values(first) + values(await responses(call)) == logits("hello")
        call = stream(transport, again, identity="bob")
        call.half_close()
        closed = (await responses(call)).closed[0]
        assert closed.reason == pb.CLOSE_REASON_TICKET_REJECTED
        assert closed.code == Code.PERMISSION_DENIED
