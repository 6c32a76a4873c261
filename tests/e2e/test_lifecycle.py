"""A server's start and stop, with real signals."""

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import elman
from elman.v1 import inference_pb2 as pb
from elman.v1.inference_pb2_grpc import InferenceStub
from tests.oracle import Oracle
from tests.serverprocess import ServerProcess
from tests.stepmodels import leaky, save, save_lstm

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def test_what_was_pushed_before_sigterm_is_answered(repository: Path) -> None:
    path = save_lstm(repository / "letters/1/model.onnx", hidden=128, layers=2)
    text = "abcdefgh" * 100
    with (
        ServerProcess(str(repository)) as server,
        elman.connect(server.target, resume_timeout=0) as client,
    ):
        streams = [client.stream("letters") for _ in range(20)]
        for stream in streams:
            stream.step("x")
            stream.push_many(text)
        # A step on one more session is answered after those pushes were read.
        with client.stream("letters") as last:
            last.step("x")
        server.process.send_signal(signal.SIGTERM)
        expected = [outputs["next"].tobytes() for outputs in Oracle(path).run("x" + text)][1:]
        for stream in streams:
            found: list[bytes] = []
            with pytest.raises(elman.ElmanError, match="stopping"):
                found.extend(prediction["next"].tobytes() for prediction in stream)
            assert found == expected
        assert server.process.wait(30) == 0


def _health(channel: grpc.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


def test_a_stopping_server_says_so_to_watchers_and_refuses_new_sessions(repository: Path) -> None:
    save_lstm(repository / "letters/1/model.onnx")
    with ServerProcess(str(repository)) as server, grpc.insecure_channel(server.target) as channel:
        watch = _health(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        assert server.process.wait(30) == 0
    assert [line["event"] for line in server.log][-2:] == ["stopping", "stopped"]


def test_a_session_that_is_never_read_ends_with_the_grace_period(repository: Path) -> None:
    save_lstm(repository / "letters/1/model.onnx")
    with ServerProcess(str(repository), "--grace-period", "0.5") as server:
        done = threading.Event()

        def pushes() -> Iterator[pb.StreamRequest]:
            yield pb.StreamRequest(model="letters", opens=[pb.Open(session=0)])
            while not done.is_set():
                yield pb.StreamRequest(push=pb.Push(sessions=[0], text="a" * 100_000))

        with grpc.insecure_channel(server.target) as channel:
            call = InferenceStub(channel).Stream(pushes())
            with elman.connect(server.target) as client:
                while server.metric("elman_elements_total") < 10_000:
                    client.predict("letters", "a" * 1000)
            assert server.terminate(timeout=10) == 0
            done.set()
            call.cancel()


def test_predictions_wait_for_a_slow_reader_within_the_grace_period(repository: Path) -> None:
    save_lstm(repository / "letters/1/model.onnx")
    text = "a" * 8000
    with ServerProcess(str(repository)) as server, grpc.insecure_channel(server.target) as channel:
        # Their predictions fit into the server's outbox, but not into HTTP/2's window.
        pushes = [
            pb.StreamRequest(
                model="letters",
                opens=[pb.Open(session=0)],
                push=pb.Push(sessions=[0], text=text),
            )
        ]
        done = threading.Event()

        def requests() -> Iterator[pb.StreamRequest]:
            yield from pushes
            done.wait()

        call = InferenceStub(channel).Stream(requests())
        while server.metric("elman_elements_total") < len(text):
            pass
        server.process.send_signal(signal.SIGTERM)
        while not server.event("stopping"):
            pass
        time.sleep(1.5)  # the time that a reader takes is what this is about
        responses: list[pb.StreamResponse] = []
        with pytest.raises(grpc.RpcError) as ended:
            responses.extend(call)
        done.set()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.process.wait(30) == 0
    answered = sum(sum(p.counts) or 1 for response in responses for p in response.predictions)
    assert answered == len(text)
    assert [c.position for response in responses for c in response.closed] == [len(text)]


def test_health_knows_the_server_its_service_and_each_model(repository: Path) -> None:
    save_lstm(repository / "letters/1/model.onnx")
    with ServerProcess(str(repository)) as server, grpc.insecure_channel(server.target) as channel:
        health = _health(channel)
        for service in ("", "elman.v1.Inference", "letters"):
            request = health_pb2.HealthCheckRequest(service=service)
            assert health.Check(request).status == SERVING
        with pytest.raises(grpc.RpcError) as raised:
            health.Check(health_pb2.HealthCheckRequest(service="nothing"))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_broken_model_is_named_and_the_others_are_served(repository: Path) -> None:
    save_lstm(repository / "letters/1/model.onnx")
    broken = repository / "broken/1/model.onnx"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"this is no model")
    with ServerProcess(str(repository)) as server, elman.connect(server.target) as client:
        assert [model.name for model in client.models()] == ["letters"]
        line = server.event("model not loaded")
        assert line["model"] == "broken"
        assert str(broken) in line["error"]


def test_a_strict_server_refuses_to_start_with_a_broken_model(repository: Path) -> None:
    save_lstm(repository / "letters/1/model.onnx")
    whole = repository / "letters/1/model.onnx"
    broken = repository / "letters/2/model.onnx"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(RuntimeError, match=r"letters/2/model\.onnx"):
        ServerProcess(str(repository), "--strict").__enter__()


def test_several_versions_are_served_side_by_side_the_newest_by_default(repository: Path) -> None:
    paths = {
        version: save_lstm(repository / f"letters/{version}/model.onnx", seed=version)
        for version in (2, 10, 9)
    }
    with ServerProcess(str(repository)) as server, elman.connect(server.target) as client:
        assert [model.version for model in client.models()] == ["2", "9", "10"]
        for version, path in paths.items():
            with client.stream("letters", version=version) as stream:
                expected = Oracle(path).step("a")["next"]
                assert stream.step("a")["next"].tobytes() == expected.tobytes()
        with client.stream("letters") as stream:
            assert stream.model.version == "10"


def test_a_single_file_is_served_under_its_name(tmp_path: Path) -> None:
    path = save(*leaky(), tmp_path / "counter.onnx")
    with ServerProcess(str(path)) as server, elman.connect(server.target) as client:
        assert [(model.name, model.version) for model in client.models()] == [("counter", "1")]


def test_the_bundled_models_are_served_beside_a_repository(repository: Path) -> None:
    save_lstm(repository / "letters/1/model.onnx")
    with ServerProcess(str(repository), "--demo") as server, elman.connect(server.target) as client:
        names = [model.name for model in client.models()]
    assert names == ["letters", "sentiment", "shakespeare", "weather"]


def test_a_second_signal_stops_at_once(repository: Path) -> None:
    save_lstm(repository / "letters/1/model.onnx", hidden=512, layers=2)
    with (
        ServerProcess(str(repository), "--window", "1000000") as server,
        elman.connect(server.target) as client,
    ):
        stream = client.stream("letters", outputs=elman.Top("next", 1))
        stream.push_many("a" * 500_000)
        while server.metric("elman_pending_elements") < 100_000:
            pass
        server.process.send_signal(signal.SIGTERM)
        while not server.event("stopping"):
            pass
        assert server.terminate(timeout=10) == 0
        assert server.event("stopping at once")


def test_nothing_is_left_in_the_way_of_a_restart(repository: Path) -> None:
    """The same port serves again at once."""
    save_lstm(repository / "letters/1/model.onnx")
    with ServerProcess(str(repository)) as first:
        port = first.event("serving")["grpc_port"]
        with elman.connect(first.target) as client:
            client.predict("letters", "abc")
            assert first.terminate() == 0
    shutil.rmtree(repository / "letters")
    save_lstm(repository / "letters/1/model.onnx", seed=1)
    with (
        ServerProcess(str(repository), "--port", str(port)) as second,
        elman.connect(second.target) as client,
    ):
        assert len(client.predict("letters", "abc")) == 3
