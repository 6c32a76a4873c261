"""Versions come into the repository and go, and no session notices."""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import elman
from elman.v1 import inference_pb2 as pb
from elman.v1.inference_pb2_grpc import InferenceStub
from tests.oracle import Oracle
from tests.serverprocess import ServerProcess
from tests.stepmodels import FOREVER, Shape, lstm, save, save_lstm, spinning
from tests.waiting import until

OFTEN = ("--reload-interval", "0.05")
GAUGES = ("elman_sessions", "elman_pending_elements", "elman_state_bytes", "elman_state_slots")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_PATIENCE = 30.0


def put(repository: Path, identity: str, seed: int = 0) -> Path:
    return moved(save_lstm(aside(repository, identity), seed=seed), repository / identity)


def put_one_that_fails_its_probe(repository: Path, identity: str) -> Path:
    """Its outputs are not of the shape that its spec tells."""
    model, spec = lstm(Shape())
    output = replace(spec.outputs[0], shape=(7,), labels=())
    path = save(model, replace(spec, outputs=(output,)), aside(repository, identity))
    return moved(path, repository / identity)


def put_half(repository: Path, identity: str) -> Path:
    """As a copy leaves it that was broken off."""
    path = save_lstm(aside(repository, identity))
    path.write_bytes(path.read_bytes()[:-100])
    return moved(path, repository / identity)


def aside(repository: Path, identity: str) -> Path:
    return repository.parent / "aside" / identity / "model.onnx"


def moved(path: Path, place: Path) -> Path:
    """Moves a version into place whole, as one should."""
    place.parent.mkdir(parents=True, exist_ok=True)
    path.parent.rename(place)
    return place / path.name


def expected(path: Path, text: str) -> list[bytes]:
    return [outputs["next"].tobytes() for outputs in Oracle(path).run(text)]


def answers(stream: elman.Stream, text: str) -> list[bytes]:
    return [prediction["next"].tobytes() for prediction in stream.map(text)]


def fresh(server: ServerProcess, text: str, version: str | None = None) -> list[bytes]:
    """What a client answers that knows nothing yet."""
    with elman.connect(server.target) as client, client.stream("letters", version=version) as one:
        return answers(one, text)


def health(server: ServerProcess, model: str) -> int:
    with grpc.insecure_channel(server.target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        status: int = stub.Check(health_pb2.HealthCheckRequest(service=model)).status
        return status


class Load:
    """Sessions that push one element after another, without end."""

    def __init__(self, server: ServerProcess, sessions: int) -> None:
        self._server = server
        self._sessions = sessions
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(sessions)

    def __enter__(self) -> "Load":
        self._running = [self._pool.submit(self._push) for _ in range(self._sessions)]
        until(lambda: self._server.metric("elman_sessions") >= self._sessions)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()

    def stop(self) -> list[list[bytes]]:
        """What each was answered."""
        self._stop.set()
        return [running.result() for running in self._running]

    def _push(self) -> list[bytes]:
        found: list[bytes] = []
        with elman.connect(self._server.target) as client, client.stream("letters") as stream:
            while not self._stop.is_set():
                found.append(stream.step(letter(len(found)))["next"].tobytes())
        return found


def letter(position: int) -> str:
    return "abcdefgh"[position % 8]


@pytest.fixture(params=["poll", "SIGHUP"])
def told(request: pytest.FixtureRequest) -> bool:
    """Whether the server is told to look, or looks itself."""
    return bool(request.param == "SIGHUP")


def test_a_new_version_takes_new_sessions_and_open_ones_stay_on_theirs_to_the_bit(
    repository: Path, told: bool
) -> None:
    first, text = put(repository, "letters/1"), "the quick brown fox"
    with ServerProcess(str(repository), *(() if told else OFTEN)) as server, ExitStack() as stack:
        load = stack.enter_context(Load(server, 4))
        client = stack.enter_context(elman.connect(server.target))
        lasting = stack.enter_context(client.stream("letters"))
        begun = answers(lasting, text)
        second = put(repository, "letters/2", seed=2)
        if told:
            server.process.send_signal(signal.SIGHUP)
        server.heard("model ready", version="2")
        assert fresh(server, text) == expected(second, text)
        # Who names the old version still gets it, as one does that comes back to its session.
        assert fresh(server, text, "1") == expected(first, text)
        assert begun + answers(lasting, text) == expected(first, text + text)
        for found in load.stop():
            assert found == expected(first, "".join(map(letter, range(len(found)))))
        assert server.terminate() == 0
        assert not server.lines("model retires")


@pytest.mark.parametrize("put_broken", [put_one_that_fails_its_probe, put_half])
def test_a_version_that_fails_never_takes_traffic_and_is_told_once(
    put_broken: Callable[[Path, str], Path], repository: Path
) -> None:
    first, text = put(repository, "letters/1"), "abc"
    with ServerProcess(str(repository), *OFTEN) as server:
        broken = put_broken(repository, "letters/2")
        line = server.heard("model not loaded", version="2")
        assert str(broken) in line["error"]
        for number in range(3):  # as many looks at least
            put(repository, f"other/{number + 1}")
            server.heard("model ready", model="other", version=str(number + 1))
            assert fresh(server, text) == expected(first, text)
        assert len(server.lines("model not loaded")) == 1
        assert server.metric("elman_model_load_failures_total", model="letters", version="2") == 1
        assert server.samples("elman_sessions", model="letters", version="2") == []
        with pytest.raises(elman.ModelNotFound):
            fresh(server, text, "2")
        # Mended, it is like any other.
        broken.unlink()
        broken.parent.rmdir()
        second = put(repository, "letters/2", seed=2)
        server.heard("model ready", model="letters", version="2")
        assert fresh(server, text) == expected(second, text)


def test_a_version_that_was_removed_is_unloaded_when_its_last_session_has_ended(
    repository: Path,
) -> None:
    text = "the quick brown fox"
    first, second = put(repository, "letters/1"), put(repository, "letters/2", seed=2)
    kept = shutil.copy(second, repository.parent / "kept.onnx")
    with (
        ServerProcess(str(repository), *OFTEN, "--version-grace", "0") as server,
        elman.connect(server.target) as client,
    ):
        stream = client.stream("letters")
        begun = answers(stream, text)
        shutil.rmtree(second.parent)
        assert server.heard("model retires")["version"] == "2"
        assert fresh(server, text) == expected(first, text)
        # While it is there who names it gets it, and who has a session keeps it.
        assert fresh(server, text, "2") == expected(Path(kept), text)
        assert begun + answers(stream, text) == expected(Path(kept), text + text)
        assert not server.lines("model unloaded")
        for gauge in GAUGES:
            assert len(server.samples(gauge, version="2")) == 1
        stream.close()
        server.heard("model unloaded", model="letters", version="2")
        for gauge in GAUGES:
            assert server.samples(gauge, version="2") == []
            assert len(server.samples(gauge, version="1")) == 1
        assert server.metric("elman_elements_total", version="2") == 3 * len(text)
        assert server.metric("elman_model_unloads_total", version="2") == 1
        with pytest.raises(elman.ModelNotFound):
            fresh(server, text, "2")
        assert health(server, "letters") == SERVING


def test_a_model_without_versions_is_not_served_any_more(repository: Path) -> None:
    put(repository, "letters/1")
    put(repository, "other/1")
    with ServerProcess(str(repository), "--version-grace", "1000") as server:
        assert health(server, "letters") == SERVING
        shutil.rmtree(repository / "letters")
        server.process.send_signal(signal.SIGHUP)
        server.heard("model retires", model="letters")
        until(lambda: health(server, "letters") == NOT_SERVING)
        assert health(server, "") == health(server, "other") == SERVING
        with pytest.raises(elman.ModelNotFound, match="no longer served"):
            fresh(server, "a")
        # Within the grace who comes back finds the version.
        assert len(fresh(server, "a", "1")) == 1
        with elman.connect(server.target) as client:
            assert [model.name for model in client.models()] == ["other"]
        again = put(repository, "letters/1", seed=1)
        server.process.send_signal(signal.SIGHUP)
        # It is the version that it was: another network needs another number.
        server.heard("model is served again", model="letters")
        server.heard(
            "model file replaced, the loaded one is served on; a new version needs a new number"
        )
        until(lambda: health(server, "letters") == SERVING)
        assert fresh(server, "a") != expected(again, "a")
        assert server.terminate() == 0


def test_a_file_that_is_replaced_in_place_is_told_of_once_and_not_served(repository: Path) -> None:
    first = put(repository, "letters/1")
    text = "abc"
    answer = expected(first, text)
    with ServerProcess(str(repository), *OFTEN) as server:
        save_lstm(repository.parent / "new", seed=1).replace(first)
        line = server.heard(
            "model file replaced, the loaded one is served on; a new version needs a new number"
        )
        assert line["loaded"] != line["found"]
        for version in ("1", "2"):
            put(repository, f"other/{version}")
            server.heard("model ready", model="other", version=version)
        assert len(server.lines(line["event"])) == 1
        assert fresh(server, text) == answer


def test_with_one_version_kept_the_next_one_takes_its_place(repository: Path) -> None:
    text, first = "abc", put(repository, "letters/1")
    with (
        ServerProcess(
            str(repository), *OFTEN, "--keep-versions", "1", "--version-grace", "0"
        ) as server,
        elman.connect(server.target) as client,
    ):
        stream = client.stream("letters")
        begun = answers(stream, text)
        put_one_that_fails_its_probe(repository, "letters/2")
        server.heard("model not loaded", version="2")
        third = put(repository, "letters/3", seed=3)
        server.heard("model retires", version="1")
        assert fresh(server, text) == expected(third, text)
        assert begun + answers(stream, text) == expected(first, text + text)
        assert not server.lines("model unloaded")
        stream.close()
        server.heard("model unloaded", version="1")
        assert first.is_file()
        assert fresh(server, text) == expected(third, text)


# While one is being loaded.


class Slow:
    """A version that loads for as long as it is to."""

    def __init__(self, repository: Path, identity: str) -> None:
        self._path = save(*spinning(FOREVER), repository / identity / "model.onnx")

    def finish(self, server: ServerProcess, seed: int = 0) -> Path:
        whole = save_lstm(self._path.parent.parent / "whole", seed=seed)
        whole.replace(self._path)
        server.process.send_signal(signal.SIGHUP)
        return self._path


def refusals(target: str, version: str = "") -> Iterator[tuple[grpc.StatusCode, str | None]]:
    """What everybody is told at once who asks for the model; the SDK would try again."""
    with grpc.insecure_channel(target, options=[("grpc.enable_retries", 0)]) as channel:
        stub = InferenceStub(channel)
        frame = pb.StreamRequest(model="letters", version=version, opens=[pb.Open(session=0)])
        asked: list[Callable[[], object]] = [
            lambda: stub.GetModel(pb.GetModelRequest(name="letters", version=version)),
            lambda: stub.Predict(pb.PredictRequest(model="letters", version=version, text="a")),
            lambda: list(stub.Stream(iter([frame]))),
        ]
        for ask in asked:
            with pytest.raises(grpc.RpcError) as raised:
                ask()
            yield raised.value.code(), raised.value.details()


def test_while_a_version_is_loaded_sessions_go_on_and_who_wants_it_is_told_to_wait(
    repository: Path,
) -> None:
    text, first = "abc", put(repository, "letters/1")
    with ServerProcess(str(repository)) as server, ExitStack() as stack:
        client = stack.enter_context(elman.connect(server.target))
        stream = stack.enter_context(client.stream("letters"))
        slow = Slow(repository, "letters/2")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.samples("elman_model_loads_total", version="2") == [0])
        assert set(refusals(server.target, "2")) == {
            (grpc.StatusCode.UNAVAILABLE, "version 2 of model 'letters' is not loaded yet")
        }
        assert fresh(server, text) == expected(first, text)
        assert answers(stream, text) == expected(first, text)
        second = slow.finish(server, seed=2)
        server.heard("model ready", version="2")
        assert fresh(server, text) == expected(second, text)


def test_at_the_start_a_model_is_unavailable_until_it_is_loaded(repository: Path) -> None:
    slow = Slow(repository, "letters/1")
    server = ServerProcess(str(repository))
    starting = threading.Thread(target=server.__enter__)
    starting.start()
    try:
        target = f"127.0.0.1:{server.heard('starting')['grpc_port']}"
        for version in ("", "1"):
            assert {code for code, _ in refusals(target, version)} == {grpc.StatusCode.UNAVAILABLE}
        assert {code for code, _ in refusals(target, "2")} == {grpc.StatusCode.NOT_FOUND}
    finally:
        path = slow.finish(server)
        starting.join()
    try:
        assert fresh(server, "abc") == expected(path, "abc")
    finally:
        server.kill()


# In what a server runs.


def test_all_workers_take_it_and_one_that_is_started_later_too(repository: Path) -> None:
    text = "abc"
    put(repository, "letters/1")
    arguments = ("--workers", "2", "--version-grace", "0")
    with ServerProcess(str(repository), *arguments) as server:
        second = put(repository, "letters/2", seed=2)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(server.lines("model ready", version="2")) == 2)
        for _ in range(8):
            assert fresh(server, text) == expected(second, text)
        shutil.rmtree(repository / "letters/1")
        # As a terminal sends it, to all of them.
        processes = psutil.Process(server.process.pid).children()
        for pid in [*(process.pid for process in processes), server.process.pid]:
            os.kill(pid, signal.SIGHUP)
        until(lambda: len(server.lines("model unloaded", version="1")) == 2)
        until(lambda: server.samples("elman_sessions", version="1") == [])
        assert server.metric("elman_model_unloads_total") == 2
        processes[0].kill()
        until(lambda: server.metric("elman_worker_restarts_total") == 1)
        until(lambda: server.metric("elman_workers") == 2)
        assert not server.lines("worker serves other models than the first did")
        assert server.terminate() == 0


def test_workers_look_themselves(repository: Path) -> None:
    put(repository, "letters/1")
    with ServerProcess(str(repository), "--workers", "2", *OFTEN) as server:
        put(repository, "letters/2", seed=2)
        until(lambda: len(server.lines("model ready", version="2")) == 2)
