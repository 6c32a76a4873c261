"""The children that load models, as the server sees them: one conversation each."""

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
"""Bytes. A spec of the largest size that is allowed fits, written as JSON within JSON."""
LENGTH_NBYTES = 4
"""Of the number of bytes that stands before a request."""
_SECRETS = "ELMAN_"
"""What the settings of a server begin with in its environment. A child has no use for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What came of a child."""

    answer: bytes
    code: int | None
    """Its exit code, less than 0 for the number of the signal that killed it; None if the fork
    server went with it."""


class Children:
    """Makes them by a fork server, which starts with the first unless it did before, and is ended
    by `close`. For one event loop."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Has the fork server import what children need, for which nobody has to wait yet. Raises
        `OSError`."""
        self._started()

    async def ask(self, request: bytes, graphs: BinaryIO) -> Said:
        """Has a child work on a request. Cancelled, it kills the child.

        Raises `OSError` if there can be none.
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
            with contextlib.suppress(ConnectionError):  # it died; how is told below
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
        except ConnectionError:  # it is about to be gone
            self.close()
            socket.send_fds(self._started(), [b"+"], descriptors)

    def close(self) -> None:
        """Ends the fork server, and kills what it has made. It starts again with the next
        request."""
        process, self._process = self._process, None
        control, self._control = self._control, None
        if control is not None:
            control.close()
        if process is not None:
            # Its children die with it.
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
        # An interrupt at the terminal is the server's, which ends its children.
        start_new_session=True,
        env={
            **{name: value for name, value in os.environ.items() if not _is_secret(name)},
            "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
            # One thread, so that it can fork.
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
    """A file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("elman-graphs"), "r+b") as file:
            yield file
    else:
        with tempfile.TemporaryFile() as file:
            yield file
