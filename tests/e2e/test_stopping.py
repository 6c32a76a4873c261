"""A server that is told to stop is gone soon after its grace period, whatever hangs."""

import json
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from elman.v1 import inference_pb2 as pb
from elman.v1.inference_pb2_grpc import InferenceStub
from tests import waiting
from tests.loopmodels import FOR_EVER, save_loop
from tests.serverprocess import ServerProcess
from tests.stepmodels import save_lstm

GRACE = 2.0
MORE = 5.0
"""Seconds beyond the grace period in which the process is gone at the latest."""
CONNECTIONS = 5000
PATIENT = ("--step-timeout", "3600")
"""Steps go on for as long as they like: it is the stop that is to end."""
ENDLESS = np.float32(1e15).tobytes()

Hang = Callable[[ServerProcess, ExitStack], None]

pytestmark = pytest.mark.parametrize("workers", [1, 2])


@contextmanager
def pressed(repository: Path, workers: int, *more: str) -> Iterator[ServerProcess]:
    """A server with a short grace period, and a model `letters` beside what is there."""
    save_lstm(repository / "letters/1/model.onnx")
    arguments = ("--grace-period", str(GRACE), "--workers", str(workers), *more)
    with ServerProcess(str(repository), *arguments) as server:
        yield server


def family(pid: int) -> list[psutil.Process]:
    """A server's processes."""
    own = psutil.Process(pid)
    return [own, *own.children(recursive=True)]


def ends(server: ServerProcess, seconds: float = GRACE + MORE) -> float:
    """SIGTERM; asserts that all of its processes are gone in time, and returns after how long."""
    processes = family(server.process.pid)
    begun = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(seconds)
    gone(processes, begun + seconds)
    return time.monotonic() - begun


def gone(processes: list[psutil.Process], end: float) -> None:
    """Asserts that none of them runs at `end`. An orphan that ended may wait to be reaped."""

    def over(process: psutil.Process) -> bool:
        try:
            return process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    waiting.until(lambda: all(map(over, processes)), seconds=end - time.monotonic())


def stuck(server: ServerProcess, stack: ExitStack, model: str) -> None:
    """One step of it never ends."""
    channel = stack.enter_context(grpc.insecure_channel(server.target))
    done = threading.Event()
    stack.callback(done.set)

    def requests() -> Iterator[pb.StreamRequest]:
        yield pb.StreamRequest(model=model, opens=[pb.Open(session=0)])
        yield pb.StreamRequest(push=pb.Push(sessions=[0], raw=ENDLESS))
        done.wait()

    call = InferenceStub(channel).Stream(requests())
    stack.callback(call.cancel)
    assert next(call).opened
    spinning(server.process.pid)


def spinning(pid: int) -> None:
    """Waits until one of a server's processes has computed for a while."""
    before: dict[psutil.Process, float] = {}

    def one() -> bool:
        used = {process: sum(process.cpu_times()[:2]) for process in family(pid)}
        return any(now > before.setdefault(process, now) + 0.5 for process, now in used.items())

    waiting.until(one, seconds=60)


@pytest.mark.parametrize("more", [0, 5000], ids=["short for the probe", "long for the probe"])
def test_a_step_that_never_ends(repository: Path, workers: int, more: int) -> None:
    save_loop(repository / "loop/1/model.onnx", more=more)
    with pressed(repository, workers, *PATIENT) as server, ExitStack() as stack:
        stuck(server, stack, "loop")
        ends(server)


def test_a_second_signal_while_a_step_never_ends(repository: Path, workers: int) -> None:
    save_loop(repository / "loop/1/model.onnx", more=5000)
    patient = ("--grace-period", "60", *PATIENT)
    with pressed(repository, workers, *patient) as server, ExitStack() as stack:
        stuck(server, stack, "loop")
        server.process.send_signal(signal.SIGTERM)
        assert server.heard("stopping")
        ends(server, MORE)


def test_a_model_that_never_loads(repository: Path, workers: int) -> None:
    save_loop(repository / "endless/1/model.onnx", turns=FOR_EVER)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "elman_server", str(repository), "--log-format", "json"),
            *("--port", "0", "--metrics-port", "0"),
            *("--grace-period", str(GRACE), "--workers", str(workers)),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process, process.stderr:
        try:
            for line in process.stderr:
                if json.loads(line)["event"] == "starting":
                    break
            spinning(process.pid)
            everyone = family(process.pid)
            process.send_signal(signal.SIGTERM)
            end = time.monotonic() + GRACE + MORE
            process.wait(GRACE + MORE)
            gone(everyone, end)
        finally:
            process.kill()


def test_a_version_that_never_loads_while_the_server_runs(repository: Path, workers: int) -> None:
    with pressed(repository, workers) as server:
        save_loop(repository / "endless/1/model.onnx", turns=FOR_EVER)
        server.process.send_signal(signal.SIGHUP)
        spinning(server.process.pid)
        ends(server)


def test_watchers_of_its_health_that_do_not_read(repository: Path, workers: int) -> None:
    with pressed(repository, workers) as server, ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(deaf(server))
        ends(server)


@contextmanager
def deaf(server: ServerProcess) -> Iterator[None]:
    """A connection that asks for more than it reads, and watches."""
    port = server.event("serving")["grpc_port"]
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        window = struct.pack(">HI", 4, 2**31 - 1)
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(4, 0, 0, window)
            + frame(8, 0, 0, struct.pack(">I", 2**31 - 1 - 65535))
        )
        asks = "/elman.v1.Inference/ListModels", "/grpc.health.v1.Health/Watch"
        for number, path in enumerate([asks[0]] * 2000 + [asks[1]] * 20):
            stream = 2 * number + 1
            connection.sendall(frame(1, 4, stream, header(path)) + frame(0, 1, stream, b"\0" * 5))
        yield


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """Of HTTP/2."""
    return (
        struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body
    )


def header(path: str) -> bytes:
    """Of a gRPC call, without compression."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )


def test_no_memory_is_left(repository: Path, workers: int) -> None:
    with pressed(repository, workers) as server:
        for process in family(server.process.pid):
            nbytes = 1024 * int(_status(process.pid)["VmData"].split()[0])
            psutil.Process(process.pid).rlimit(resource.RLIMIT_DATA, (nbytes, nbytes))
        with grpc.insecure_channel(server.target) as channel:
            request = pb.PredictRequest(model="letters", text="a" * 30_000)
            stub = InferenceStub(channel)
            calls = [stub.Predict.future(request, timeout=5) for _ in range(100)]
            for call in calls:
                call.exception()
        if server.process.poll() is None:
            ends(server)


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_thousands_of_connections(repository: Path, workers: int) -> None:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed < 2 * CONNECTIONS + 500:
        pytest.skip(f"{allowed} file descriptors are allowed")
    with pressed(repository, workers) as server, ExitStack() as stack:
        port = server.event("serving")["grpc_port"]
        greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
        call = frame(1, 4, 1, header("/elman.v1.Inference/Stream"))
        for _ in range(CONNECTIONS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(greeting + call)
        ends(server)
