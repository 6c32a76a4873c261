"""What a client that was closed leaves behind: nothing, whenever Python looks for garbage."""

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from time import monotonic, sleep

import psutil
import pytest

import elman
from elman import aio
from tests.serverprocess import ServerProcess

CLIENTS = 5


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--demo") as process:
        yield process


@pytest.fixture(autouse=True)
def no_garbage_is_collected() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


SECONDS = 10
"""Longest wait for gRPC to close a connection."""


def connections_to(target: str) -> int:
    port = int(target.rpartition(":")[2])
    found = psutil.Process(os.getpid()).net_connections(kind="tcp")
    return sum(each.raddr[1:] == (port,) for each in found)


@pytest.mark.parametrize("grace", [0, 5])
def test_a_closed_client_keeps_no_connection(server: ServerProcess, grace: float) -> None:
    for _ in range(CLIENTS):
        client = elman.connect(server.target)
        client.stream("sentiment").push_many("good")
        client.close(grace=grace)
    until = monotonic() + SECONDS
    while connections_to(server.target) and monotonic() < until:
        sleep(0.05)
    assert connections_to(server.target) == 0


@pytest.mark.parametrize("grace", [0, 5])
async def test_a_closed_asynchronous_client_keeps_no_connection(
    server: ServerProcess, grace: float
) -> None:
    for _ in range(CLIENTS):
        client = await aio.connect(server.target)
        stream = await client.stream("sentiment")
        await stream.push_many("good" * 100)  # answers come while the client is closed
        await client.close(grace=grace)
    # gRPC lets go of a cancelled call on the event loop, so the loop must run.
    until = monotonic() + SECONDS
    while connections_to(server.target) and monotonic() < until:
        await asyncio.sleep(0.05)
    assert connections_to(server.target) == 0


UNCLOSED = """
import asyncio, sys
from elman import aio

async def main():
    client = await aio.connect(sys.argv[1])
    stream = await client.stream("sentiment")
    await stream.push_many("good")
    raise RuntimeError("on purpose")

asyncio.run(main())
"""


def test_a_loop_that_ends_with_an_open_client_ends_quietly(server: ServerProcess) -> None:
    run = [sys.executable, "-W", "error", "-c", UNCLOSED, server.target]
    found = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert found.stderr.rstrip().endswith("RuntimeError: on purpose")
    assert "never retrieved" not in found.stderr and "pending" not in found.stderr
