"""Whatever one client does with its connections, the others are served."""

import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

import elman
from tests import waiting
from tests.serverprocess import ServerProcess
from tests.stepmodels import save_lstm

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
FLOOD = f"""
import socket, struct, sys, threading
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.sendall({PREFACE!r})
threading.Thread(target=lambda: [None for _ in iter(lambda: connection.recv(65536), b"")]).start()
frame = b"\\0\\0\\4\\x08\\0" + struct.pack(">II", 0, 1)
print("floods", flush=True)
while True:
    connection.sendall(frame * 5000)
"""


def healthy(target: str) -> bool:
    """On a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(target, options) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def test_a_flood_of_window_updates_starves_nobody(repository: Path) -> None:
    save_lstm(repository / "letters/1/model.onnx")
    with ServerProcess(str(repository)) as server, elman.connect(server.target) as client:
        port = str(server.event("serving")["grpc_port"])
        with (
            client.stream("letters") as stream,
            subprocess.Popen(
                [sys.executable, "-c", FLOOD, port], stdout=subprocess.PIPE, text=True
            ) as flood,
        ):
            try:
                assert flood.stdout is not None
                assert flood.stdout.readline() == "floods\n"
                longest, end = 0.0, time.monotonic() + 5
                while time.monotonic() < end:
                    begun = time.monotonic()
                    stream.step("a")
                    assert healthy(server.target)
                    longest = max(longest, time.monotonic() - begun)
            finally:
                flood.kill()
    assert longest < 3


def test_idle_connections_make_room_for_those_who_call(repository: Path) -> None:
    save_lstm(repository / "letters/1/model.onnx")
    with (
        ServerProcess(str(repository), "--max-connections", "40") as server,
        elman.connect(server.target) as client,
        client.stream("letters") as stream,
        ExitStack() as stack,
    ):
        stream.step("a")
        port = server.event("serving")["grpc_port"]
        idle = []
        for _ in range(60):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.settimeout(30)
            connection.sendall(PREFACE)
            idle.append(connection)
        process = psutil.Process(server.process.pid)
        assert process.num_fds() < 100

        def served() -> bool:
            try:
                return healthy(server.target)
            except grpc.RpcError:
                return False

        waiting.until(served, seconds=40)
        stream.step("b")
        assert server.metric("elman_calls_refused_total", reason="idle") > 0
        for connection in idle:
            while connection.recv(4096):
                pass
