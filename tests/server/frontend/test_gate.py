"""What every call passes before it is served, and what comes of those that do not behave."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from elman.v1 import inference_pb2 as pb
from elman.v1 import inference_pb2_grpc as pb_grpc
from elman_server.frontend.gate import gate
from elman_server.frontend.grpcio import connections
from tests.server.frontend.conftest import Serve
from tests.server.frontend.harness import LocalServer

METHODS = ["ListModels", "GetModel", "Predict"]
JUNK = b"\xff\xff\xff"


def method(server: LocalServer, name: str, service: str = "elman.v1.Inference") -> Any:
    """Of bytes, with one request and one answer."""
    return server.channel.unary_unary(f"/{service}/{name}")


def health(server: LocalServer) -> Any:
    channel: Any = server.channel
    return health_pb2_grpc.HealthStub(channel)


async def status(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


@pytest.mark.parametrize("name", METHODS)
async def test_a_request_that_is_no_protobuf_is_the_callers_mistake(
    server: LocalServer, name: str
) -> None:
    with capture_logs() as logs:
        code, details = await status(method(server, name)(JUNK))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == f"the request is no elman.v1.{name}Request"
    assert logs == []
    handled = {"grpc_method": name, "grpc_code": "INVALID_ARGUMENT"}
    await server.until(lambda: server.metric("grpc_server_handled_total", **handled) == 1)


@pytest.mark.parametrize(
    ("service", "name"),
    [
        ("grpc.health.v1.Health", "Check"),
        ("grpc.health.v1.Health", "Watch"),
        ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo"),
    ],
)
async def test_so_it_is_of_health_and_reflection(
    server: LocalServer, service: str, name: str
) -> None:
    code, _ = await status(method(server, name, service)(JUNK))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_reflection_that_is_no_name_is_not_repeated(server: LocalServer) -> None:
    channel: Any = server.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(host="h" * 100_000, list_services=""))
    code, details = await status(call.read())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "allowed is 16384" in details


async def test_health_of_what_is_no_name_is_refused(server: LocalServer) -> None:
    request = health_pb2.HealthCheckRequest(service="s" * 100_000)
    for call in (health(server).Watch(request).read(), health(server).Check(request)):
        code, _ = await status(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT


@asynccontextmanager
async def watching(server: LocalServer, count: int, *, left: int = 0) -> AsyncIterator[None]:
    """So many calls are under way, beside `left` others."""
    stub = health(server)
    calls = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(count)]
    for call in calls:
        await call.read()
    yield
    for call in calls:
        call.cancel()
    await server.until(lambda: server.metric("elman_calls") == left)


@pytest.mark.parametrize(
    ("limit", "reason"), [("max_calls", "calls"), ("max_peer_calls", "peer_calls")]
)
async def test_a_call_beyond_the_limit_is_refused_counted_and_logged(
    serve: Serve, limit: str, reason: str
) -> None:
    async with serve(**{limit: 2}, retry_after=3) as server, watching(server, 2):
        assert server.metric("elman_calls") == 2
        with capture_logs() as logs:
            for _ in range(5):
                call = server.stub.ListModels(pb.ListModelsRequest())
                code, details = await status(call)
                assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert f"{limit} is 2" in details
                assert ("grpc-retry-pushback-ms", "3000") in list(await call.trailing_metadata())
        assert server.metric("elman_calls_refused_total", reason=reason) == 5
        [line] = [line for line in logs if line["event"] == "calls refused"]
        assert (line["reason"], line["calls"]) == (reason, 1)
        assert line["last_peer"].startswith("ipv4:127.0.0.1:")
        # Whoever looks after the server is answered all the same.
        await health(server).Check(health_pb2.HealthCheckRequest())


async def test_sessions_opened_too_fast_are_refused_one_by_one(serve: Serve) -> None:
    async with serve(max_open_rate=0.1, retry_after=3) as server:
        stream = server.stream()
        await stream.send(opens=[1, 2])
        await stream.ended(2)
        [closed] = stream.closed[2]
        assert closed.reason == pb.CLOSE_REASON_OVERLOADED
        assert closed.retry_after_ms == 3000
        await stream.push(1, "a")
        await stream.answered(1, 1)
        assert server.metric("elman_sessions_rejected_total", reason="rate") == 1
        stream.call.cancel()


async def test_a_connection_that_goes_on_with_refused_calls_is_closed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_STUBBORN", 0.4)
    async with serve(max_call_rate=0.1) as server:
        other = server.stream()
        await other.send(opens=[1])
        await other.until(lambda: 1 in other.opened)
        for _ in range(5):  # four may be refused
            code, _ = await status(server.stub.ListModels(pb.ListModelsRequest()))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await other.read_all() is grpc.StatusCode.UNAVAILABLE
        await server.until(
            lambda: server.metric("elman_calls_refused_total", reason="stubborn") == 1
        )


async def test_a_connection_that_resets_its_calls_in_a_loop_is_closed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_STUBBORN", 0.4)
    async with serve() as server:
        other = server.stream()
        await other.send(opens=[1])
        await other.until(lambda: 1 in other.opened)
        for _ in range(5):
            stream = server.stream()
            await stream.send(opens=[1])
            await stream.until(lambda: 1 in stream.opened)  # noqa: B023
            stream.call.cancel()
        assert await other.read_all() is grpc.StatusCode.UNAVAILABLE
        await server.until(lambda: server.metric("elman_calls_refused_total", reason="resets") == 1)


async def test_calls_that_end_together_after_a_while_are_no_resets(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy has those of many clients on one connection."""
    monkeypatch.setattr(gate, "_STUBBORN", 0.1)
    monkeypatch.setattr(gate, "_SHORT_SECONDS", 0.0)
    async with serve() as server:
        other = server.stream()
        await other.send(opens=[1])
        await other.until(lambda: 1 in other.opened)
        async with watching(server, 10, left=1):
            pass
        await asyncio.sleep(2 * connections._TOGETHER_SECONDS)
        await other.push(1, "a")
        await other.answered(1, 1)
        other.call.cancel()


async def test_answers_hold_bytes_and_health_needs_none(serve: Serve) -> None:
    async with serve(max_unary_bytes=1000) as server:
        hold = 990
        answer = await server.stub.GetModel(pb.GetModelRequest(name="leaky"))
        assert answer.ByteSize() > 1000 - hold
        calls = server.servicer._gate._calls
        calls.nbytes += hold  # somebody else's
        code, details = await status(server.stub.GetModel(pb.GetModelRequest(name="leaky")))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "max_unary_bytes" in details
        calls.nbytes += 10
        await health(server).Check(health_pb2.HealthCheckRequest(service="leaky"))
        calls.nbytes -= 1000
        await server.until(lambda: calls.nbytes == 0)


async def test_predictions_that_nobody_takes_keep_others_out_and_not_for_long(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_TAKEN_SECONDS", 1.0)
    text = "a" * 10_000
    async with serve(max_unary_bytes=3_000_000) as server:
        deaf = grpc.aio.insecure_channel(
            server.target,
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.http2.lookahead_bytes", 1024),
                ("grpc.http2.bdp_probe", 0),
            ],
        )
        # As a stream, whose answer is not read.
        call: Any = deaf.stream_stream(
            "/elman.v1.Inference/Predict",
            request_serializer=pb.PredictRequest.SerializeToString,
        )()
        await call.write(pb.PredictRequest(model="letters", text=text))
        await server.until(lambda: server.metric("elman_elements_total") == len(text))
        stub = pb_grpc.InferenceStub(deaf)
        code, details = await status(stub.Predict(pb.PredictRequest(model="letters", text=text)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "max_unary_bytes" in details
        assert server.metric("elman_sessions_rejected_total", reason="bytes") == 1
        await server.until(lambda: server.metric("elman_calls_refused_total", reason="unread") == 1)
        await server.until(lambda: server.metric("elman_calls") == 0)
        answer = await server.stub.Predict(pb.PredictRequest(model="letters", text=text))
        assert answer.count == len(text)
        await deaf.close()


@pytest.mark.parametrize("name", ["Predict", "Stream"])
async def test_a_call_whose_request_does_not_come_is_ended(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(gate, "_REQUEST_SECONDS", 0.1)
    call: Any = server.channel.stream_stream(f"/elman.v1.Inference/{name}")()
    async with asyncio.timeout(20):
        code, details = await status(call.read())
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert details == "no request came within 0.1 seconds"
    assert server.metric("elman_calls_refused_total", reason="no_request") == 1


async def test_thousands_of_calls_at_once_are_all_served(serve: Serve) -> None:
    async with serve(max_calls=4000) as server:
        calls = [server.stub.ListModels(pb.ListModelsRequest()) for _ in range(3000)]
        answers = await asyncio.gather(*calls)
        assert len(answers) == 3000
        handled = {"grpc_code": "OK", "grpc_method": "ListModels"}
        await server.until(lambda: server.metric("grpc_server_handled_total", **handled) == 3000)
