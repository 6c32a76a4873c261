"""Child processes that load models, seen from the server: one request and answer per child."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Self

_MOST_ANSWERED = 256 * 1024 * 1024
"""Bytes. Large enough for a spec of the largest allowed size, written as JSON within JSON."""
LENGTH_NBYTES = 4
"""Bytes of the length prefix of a request."""
_SECRETS = "ELMAN_"
"""Prefix of the server's settings in the environment. Children do not need the settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A child's answer and exit code."""

    answer: bytes
    code: int | None
    """The child's exit code, or the negative number of the signal that killed the child. None if
    the fork server is gone too."""


class Children:
    """Starts child processes through a fork server. For use on a single event loop.

    The fork server starts with `start` or with the first request, and ends with `close`.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Starts the fork server, so its imports are done before the first request. Raises
        `OSError`."""
        self._started()

    async def ask(self, request: bytes, graphs: BinaryIO) -> Said:
        """Sends a request to a new child and returns the answer. Cancellation kills the child.

        Raises `OSError` if no child can be started.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._send([theirs.fileno(), graphs.fileno()])
        except OSError:
            ours.close()
            self.close()
            raise
        ours.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_MOST_ANSWERED)
        try:
            with contextlib.suppress(ConnectionError):  # the child died; see code below
                writer.write(len(request).to_bytes(LENGTH_NBYTES) + request)
                await writer.drain()
            said = bytearray()
            with contextlib.suppress(ConnectionError):
                while more := await reader.read(2**20):
                    said += more
                    if len(said) > _MOST_ANSWERED:
                        return Said(answer=b"", code=0)
        finally:
            writer.close()
        answer, _, code = bytes(said).rpartition(b"\n")
        known = code.removeprefix(b"-").isdigit() and len(code) < 6
        return Said(answer=answer, code=int(code) if known else None)

    def _send(self, descriptors: list[int]) -> None:
        try:
            socket.send_fds(self._started(), [b"+"], descriptors)
        except ConnectionError:  # the fork server is ending
            self.close()
            socket.send_fds(self._started(), [b"+"], descriptors)

    def close(self) -> None:
        """Ends the fork server and kills its children. The next request starts a new fork
        server."""
        process, self._process = self._process, None
        control, self._control = self._control, None
        if control is not None:
            control.close()
        if process is not None:
            # The fork server's children die with it.
            process.kill()
            process.wait()

    def _started(self) -> socket.socket:
        if self._control is None or self._process is None or self._process.poll() is not None:
            self.close()
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = _spawn(theirs.fileno())
        return self._control


def _spawn(descriptor: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "elman_server.serving.loading", str(descriptor)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[descriptor],
        # An interrupt at the terminal is for the server only, which then ends its children.
        start_new_session=True,
        env={
            **{name: value for name, value in os.environ.items() if not _is_secret(name)},
            "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
            # A single thread, so that a fork is safe.
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "1",
        },
    )


def _is_secret(name: str) -> bool:
    return name.startswith(_SECRETS)


@contextmanager
def shared_file() -> Iterator[BinaryIO]:
    """Opens a file without a name, in memory if the system supports memfd."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("elman-graphs"), "r+b") as file:
            yield file
    else:
        with tempfile.TemporaryFile() as file:
            yield file
