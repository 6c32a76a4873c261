"""A port with few connections answers whoever asks, whoever else holds on to it."""

import errno
import os
import resource
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from elman_server.telemetry.httpport import CONNECTIONS, serving
from tests import waiting


def hello(environ: Any, start: Callable[..., Any]) -> Iterable[bytes]:
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def fetch(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        found: bytes = answer.read()
    return found


@pytest.fixture
def port() -> Iterator[int]:
    with serving(hello, "127.0.0.1", 0) as port:
        yield port


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost:", b"GET / HTTP/1.1\r\n\r\n"])
def test_many_that_do_nothing_keep_nobody_out_and_have_few_threads(port: int, begun: bytes) -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        for _ in range(20 * CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(begun)
        assert fetch(port) == b"hello"
        waiting.until(lambda: threading.active_count() <= before + CONNECTIONS)


def test_a_request_that_breaks_off_is_not_answered() -> None:
    asked: list[Any] = []

    def application(environ: Any, start: Callable[..., Any]) -> Iterable[bytes]:
        asked.append(environ["PATH_INFO"])
        return hello(environ, start)

    begun = b"GET /half HTTP/1.1\r\nHost:"
    with serving(application, "127.0.0.1", 0) as port, ExitStack() as stack:
        for _ in range(3 * CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(begun)
        assert fetch(port) == b"hello"
        with socket.create_connection(("127.0.0.1", port), timeout=30) as half:
            half.sendall(begun)
            half.shutdown(socket.SHUT_WR)
            assert half.recv(1) == b""
    assert asked == ["/"]


def test_an_idle_connection_is_closed_in_time(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as idle:
        assert idle.recv(1) == b""


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process has as many files open as it may have."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened: list[int] = []
    try:
        most = len(os.listdir("/proc/self/fd")) + 50
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, allowed[1]))
        with pytest.raises(OSError) as caught:
            while True:
                opened.append(os.open("/dev/null", os.O_RDONLY))
        assert caught.value.errno == errno.EMFILE
        yield
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)


def test_without_descriptors_it_waits_and_does_not_spin(port: int) -> None:
    with socket.socket() as client:
        with no_descriptors():
            client.connect(("127.0.0.1", port))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            begun = time.process_time()
            time.sleep(1)  # what it does meanwhile is what this is about
            assert time.process_time() - begun < 0.3
        client.settimeout(10)
        answer = b""
        while more := client.recv(1000):
            answer += more
        assert answer.endswith(b"hello")


def test_its_end_waits_for_no_connection() -> None:
    with ExitStack() as stack:
        with serving(hello, "127.0.0.1", 0) as port:
            for _ in range(CONNECTIONS):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            begun = time.monotonic()
        assert time.monotonic() - begun < 3
