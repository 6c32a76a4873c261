"""After an exchange that is known to the last element, every counter is exactly right."""

from contextlib import suppress

import grpc
import pytest

from elman.v1 import inference_pb2 as pb
from tests.server.frontend.conftest import Serve
from tests.server.frontend.harness import LocalServer, push

LETTERS = {"model": "letters", "version": "10"}


async def test_a_scripted_exchange_is_counted(serve: Serve) -> None:
    async with serve(max_sessions=4) as server:
        stream = server.stream()
        # Three sessions finish, one holds an invalid element, one is one too many.
        await stream.send(opens=[1, 2, 3, 4, 5], push=push({1: "abc", 2: "de", 3: "", 4: "f!"}))
        await stream.ended(4, 5)
        await stream.answered(1, 3)
        await stream.answered(2, 2)
        await stream.half_close()
        assert await stream.read_all() is grpc.StatusCode.OK
        # One more finishes, and one is cancelled.
        await server.stub.Predict(pb.PredictRequest(model="letters", text="ghij"))
        other = server.stream()
        await other.send(opens=[1], push=push({1: "k"}))
        await other.answered(1, 1)
        other.call.cancel()
        await server.until(lambda: server.admission.sessions == 0)

        assert {
            name: server.metric(f"elman_{name}", **LETTERS)
            for name in (
                "sessions",
                "sessions_opened_total",
                "elements_total",
                "pending_elements",
                "state_slots",
                "queue_delay_seconds_count",
                "element_latency_seconds_count",
            )
        } == {
            "sessions": 0,
            "sessions_opened_total": 6,
            "elements_total": 10,
            "pending_elements": 0,
            "state_slots": 0,
            "queue_delay_seconds_count": 10,
            "element_latency_seconds_count": 10,
        }
        closed = {
            reason: server.metric("elman_sessions_closed_total", reason=reason, **LETTERS)
            for reason in ("finished", "invalid_element", "invalid_request", "cancelled")
        }
        assert closed == {
            "finished": 4,
            "invalid_element": 1,
            "invalid_request": 0,
            "cancelled": 1,
        }
        rejected = server.metric("elman_sessions_rejected_total", reason="overloaded", **LETTERS)
        assert rejected == 1
        steps = server.metric("elman_steps_total", **LETTERS)
        assert steps == server.metric("elman_step_duration_seconds_count", **LETTERS)
        assert steps == server.metric("elman_step_batch_size_count", **LETTERS)
        # Nothing was counted for a model that was not asked.
        assert server.metric("elman_sessions_opened_total") == 6
        assert server.metric("elman_elements_total") == 10


@pytest.mark.parametrize("limit", [4096, 4 * 1024 * 1024])
async def test_elements_of_split_messages_are_counted_once(serve: Serve, limit: int) -> None:
    async with serve(max_message_bytes=limit) as server:
        stream = server.stream()
        await stream.send(opens=range(20), push=push(dict.fromkeys(range(20), "abcdefgh")))
        await stream.half_close()
        assert await stream.read_all() is grpc.StatusCode.OK
        assert server.metric("elman_element_latency_seconds_count") == 160


async def test_rpcs_and_messages_are_counted(server: LocalServer) -> None:
    await server.stub.ListModels(pb.ListModelsRequest())
    await server.stub.GetModel(pb.GetModelRequest(name="letters"))
    for model in ("letters", "nothing"):
        with suppress(grpc.aio.AioRpcError):
            await server.stub.Predict(pb.PredictRequest(model=model, text="a"))
    stream = server.stream()
    await stream.send(opens=[1], push=push({1: "a"}))
    await stream.answered(1, 1)
    await stream.send(closes=[1])
    await stream.half_close()
    await stream.read_all()
    cancelled = server.stream()
    await cancelled.send(opens=[1])
    await cancelled.until(lambda: 1 in cancelled.opened)
    cancelled.call.cancel()
    handled = "grpc_server_handled_total"
    await server.until(lambda: server.metric(handled, grpc_code="CANCELLED") == 1)

    def per_method(name: str, **labels: str) -> dict[str, float]:
        methods = ("ListModels", "GetModel", "Predict", "Stream")
        return {
            method: server.metric(f"grpc_server_{name}_total", grpc_method=method, **labels)
            for method in methods
        }

    assert per_method("started") == {"ListModels": 1, "GetModel": 1, "Predict": 2, "Stream": 2}
    assert per_method("handled") == per_method("started")
    assert per_method("handled", grpc_code="OK") == {
        "ListModels": 1,
        "GetModel": 1,
        "Predict": 1,
        "Stream": 1,
    }
    assert server.metric(handled, grpc_method="Predict", grpc_code="NOT_FOUND") == 1
    assert per_method("msg_received") == {
        "ListModels": 1,
        "GetModel": 1,
        "Predict": 2,
        "Stream": 3,
    }
    assert per_method("msg_sent") == {
        "ListModels": 1,
        "GetModel": 1,
        "Predict": 1,
        "Stream": len(stream.frames) + len(cancelled.frames),
    }
