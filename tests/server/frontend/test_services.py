"""What a newcomer with grpcurl, or Kubernetes, finds out about a server."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from elman.v1 import inference_pb2 as pb
from elman_server.engine.sessions.ending import Ending, EndReason
from elman_server.frontend.wire import messages
from elman_server.model.spec import InputKind, OutputKind
from tests.server.frontend.harness import LocalServer, push
from tests.stepmodels import ALPHABET

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_models_are_listed_by_name_then_version(server: LocalServer) -> None:
    answer = await server.stub.ListModels(pb.ListModelsRequest())
    assert [(model.name, model.version) for model in answer.models] == [
        ("leaky", "1"),
        ("letters", "9"),
        ("letters", "10"),
        ("numbers", "1"),
    ]


async def test_a_model_tells_what_it_takes_and_gives(server: LocalServer) -> None:
    answer = await server.stub.GetModel(pb.GetModelRequest(name="letters"))
    assert answer.model == pb.Model(
        name="letters",
        version="10",
        fingerprint=server.catalog.get("letters").file.fingerprint,
        description="random letters",
        input=pb.Input(kind=pb.INPUT_KIND_TEXT, size=29, vocabulary=ALPHABET),
        outputs=[
            pb.Output(
                name="next",
                kind=pb.OUTPUT_KIND_LOGITS,
                data_type=pb.DATA_TYPE_FLOAT32,
                shape=[29],
                labels=ALPHABET,
            )
        ],
        state_bytes=2 * 16 * 4,
    )


async def test_a_listed_model_is_what_get_model_tells(server: LocalServer) -> None:
    answer = await server.stub.ListModels(pb.ListModelsRequest())
    for model in answer.models:
        one = await server.stub.GetModel(pb.GetModelRequest(name=model.name, version=model.version))
        assert one.model == model


async def test_features_tell_their_type_and_shape(server: LocalServer) -> None:
    answer = await server.stub.GetModel(pb.GetModelRequest(name="leaky"))
    assert answer.model.input == pb.Input(
        kind=pb.INPUT_KIND_FEATURES, data_type=pb.DATA_TYPE_FLOAT32, shape=[3]
    )


@pytest.mark.parametrize(
    ("kinds", "known"),
    [(InputKind, messages._INPUT_KINDS), (OutputKind, messages._OUTPUT_KINDS)],
)
def test_every_kind_has_its_place_on_the_wire(kinds: Sequence[Any], known: dict[Any, int]) -> None:
    assert known.keys() == set(kinds)
    assert len(set(known.values())) == len(known)


async def health(server: LocalServer, service: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(server.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    status: int = answer.status
    return status


@pytest.mark.parametrize("service", ["", "elman.v1.Inference"])
async def test_the_server_is_healthy_once_it_is_ready(server: LocalServer, service: str) -> None:
    before = await health(server, service)
    await server.endpoint.ready()
    assert (before, await health(server, service)) == (NOT_SERVING, SERVING)


async def test_each_model_is_healthy_by_its_own_name(server: LocalServer) -> None:
    assert await health(server, "letters") == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(server, "nothing")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("service", ["", "elman.v1.Inference", "letters"])
async def test_a_server_that_goes_away_says_so_first(server: LocalServer, service: str) -> None:
    await server.endpoint.ready()
    server.endpoint.not_serving()
    assert await health(server, service) == NOT_SERVING
    answer = await server.stub.Predict(pb.PredictRequest(model="letters", text="still here"))
    assert answer.count == 10


async def test_a_watcher_hears_of_a_change(server: LocalServer) -> None:
    stub: Any = health_pb2_grpc.HealthStub(server.channel)
    call = stub.Watch(health_pb2.HealthCheckRequest())
    statuses = [(await call.read()).status]
    await server.endpoint.ready()
    statuses.append((await call.read()).status)
    assert statuses == [NOT_SERVING, SERVING]
    call.cancel()


async def reflected(server: LocalServer, **request: Any) -> Any:
    channel: Any = server.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(**request))
    answer = await call.read()
    call.cancel()
    return answer


async def test_reflection_lists_the_services(server: LocalServer) -> None:
    answer = await reflected(server, list_services="")
    assert {service.name for service in answer.list_services_response.service} == {
        "elman.v1.Inference",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_reflection_describes_the_service(server: LocalServer) -> None:
    answer = await reflected(server, file_containing_symbol="elman.v1.Inference")
    [file] = answer.file_descriptor_response.file_descriptor_proto
    assert file == pb.DESCRIPTOR.serialized_pb


async def test_a_stopping_server_finishes_what_was_pushed_and_takes_no_more(
    server: LocalServer,
) -> None:
    stopping = Ending(reason=EndReason.SHUTDOWN, message="the server is stopping")
    stream, idle = server.stream(), server.stream()
    await stream.send(opens=[1], push=push({1: "a" * 300}))
    await idle.send(opens=[1])
    await idle.until(lambda: 1 in idle.opened)
    await stream.until(lambda: 1 in stream.opened)
    server.admission.closed = True
    finished = asyncio.create_task(server.servicer.finish())
    await stream.send(opens=[2])
    await server.engine().drain(stopping, grace=30)
    assert await stream.read_all() is grpc.StatusCode.UNAVAILABLE
    assert await idle.read_all() is grpc.StatusCode.UNAVAILABLE
    assert len(stream.predictions[1]) == 300
    for conversation in (stream, idle):
        [closed] = conversation.closed[1]
        assert closed.reason == pb.CLOSE_REASON_SHUTDOWN
        assert closed.message == "the server is stopping"
    await finished
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.stub.Predict(pb.PredictRequest(model="letters", text="a"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
