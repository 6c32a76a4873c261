"""Connections that nobody uses, up to the limit of file descriptors: nothing spins, nobody waits.

pytest -s tests/abuse/test_descriptors.py
"""

import contextlib
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from time import monotonic, sleep

import psutil
import pytest

from tests.abuse.comparison import Comparison
from tests.abuse.http2 import Connection
from tests.abuse.innocent import Innocent
from tests.abuse.readings import at_rest, check_nothing_left, cpu_seconds
from tests.serverprocess import ServerProcess

SPARE = 100
"""File descriptors that the server may still open."""
IDLE = 300
ENOUGH = 5
"""Connections that are refused, or not answered; more would be so too."""
WATCHED_SECONDS = 1.5
THREADS = 40
"""That the metrics port may have, for as many connections as it takes at once."""
SPIN = 0.3
"""A core that is busy for more than this part of the time with idle connections spins."""


def _busy(server: ServerProcess) -> float:
    """The part of a core that the server takes, from now on for a while, also for the innocent
    session."""
    begun, spent = monotonic(), cpu_seconds(server)
    sleep(WATCHED_SECONDS)
    # Who sleeps on a busy machine may wake much later.
    return (cpu_seconds(server) - spent) / (monotonic() - begun)


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--demo") as server:
        with Innocent(server.target) as innocent:
            innocent.stop()
        yield server


def _address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").partition("/")[0].split(":")
    return host, int(port)


def _idle(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=0.3)


def _half_a_request(address: tuple[str, int]) -> socket.socket:
    connected = _idle(address)
    connected.sendall(b"GET /metrics HTTP/1.1\r\nHost: ")
    return connected


def _unread(address: tuple[str, int]) -> socket.socket:
    connected = _idle(address)
    connected.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 50)
    return connected


@pytest.mark.parametrize(
    "connect", [_idle, _half_a_request, pytest.param(_unread, marks=pytest.mark.slow)]
)
def test_connections_to_the_metrics_that_stay_cost_no_thread_each(
    server: ServerProcess, connect: Callable[[tuple[str, int]], socket.socket]
) -> None:
    before = at_rest(server)
    process = psutil.Process(server.process.pid)

    def bout() -> str:
        idle = _busy(server)
        with ExitStack() as stack:
            refused = 0
            for _ in range(IDLE):
                try:
                    stack.enter_context(connect(_address(server.metrics_url)))
                except OSError:
                    refused += 1
                    if refused == ENOUGH:
                        break
            busy = _busy(server)
            threads = process.num_threads()
            assert busy < idle + SPIN
            assert threads < before.threads + THREADS
        return f"{IDLE} connections to the metrics port: {threads} threads"

    Comparison(target=server.target, longest=1.0).run(bout)
    check_nothing_left(server, before)


def _scrape(url: str) -> int:
    with urllib.request.urlopen(url, timeout=20) as response:
        response.read()
        return int(response.status)


@pytest.mark.parametrize("port", ["grpc", "metrics"])
def test_at_the_limit_of_file_descriptors_nothing_spins(server: ServerProcess, port: str) -> None:
    before = at_rest(server)
    process = psutil.Process(server.process.pid)
    limit = process.num_fds() + SPARE
    process.rlimit(psutil.RLIMIT_NOFILE, (limit, limit))
    grpc_address = _address(f"http://{server.target}/")
    address = grpc_address if port == "grpc" else _address(server.metrics_url)

    def bout() -> str:
        idle = _busy(server)
        with ExitStack() as stack:
            for _ in range(SPARE + ENOUGH):
                with contextlib.suppress(OSError):
                    if port == "grpc":
                        stack.enter_context(Connection(server.target, seconds=0.3))
                    else:
                        stack.enter_context(_idle(address))
            # One more waits at each door.
            for each in (grpc_address, _address(server.metrics_url)):
                with contextlib.suppress(OSError):
                    stack.enter_context(_idle(each))
            busy = _busy(server)
            taken = process.num_fds()
            assert busy < idle + SPIN

        return f"{taken} of {limit} descriptors, {port} port: {busy:.0%} of a core"

    # Newcomers can't come meanwhile; they come again.
    Comparison(target=server.target).run(bout)
    assert _scrape(server.metrics_url) == 200
    end = monotonic() + 30
    while not process.num_fds() <= before.fds and monotonic() < end:
        sleep(0.1)
    check_nothing_left(server, before)
