"""Worker process, seen from the supervisor."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from elman_server.config import ServerConfig
from elman_server.durable.tickets.keptkey import OwnKey
from elman_server.stopping import SIGNALS
from elman_server.telemetry.family import Family
from elman_server.workers.channel import Channel
from elman_server.workers.messages import (
    Begin,
    Changed,
    Failed,
    Listen,
    Loaded,
    Report,
    Rescan,
    Samples,
    Serving,
    Stop,
)

_IDENTITIES = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """End of a worker."""

    code: int
    """The worker's exit code, or the negative number of the signal that killed the worker."""
    message: str
    """Reason of a failed start, or empty."""
    served: float
    """Seconds since the worker began to serve; 0 if the worker never served."""

    @property
    def how(self) -> str:
        if self.message:
            return self.message
        if self.code < 0:
            return f"killed by {_name(-self.code)}"
        return f"exit code {self.code}"


class Worker:
    """A worker process and the channel to it. Created by `start`, for a single event loop."""

    def __init__(
        self, number: int, process: "subprocess.Popen[bytes]", channel: Channel, begin: Begin
    ) -> None:
        self.number = number
        self.identity = next(_IDENTITIES)
        """Number of the process, unique within this supervisor."""
        self.models: tuple[str, ...] = ()
        """Served models; empty until loaded."""
        self._process = process
        self._channel = channel
        self._begin = begin
        self._connected = False
        self._requested: dict[int, asyncio.Event] = {}
        self._numbers = itertools.count(1)

    @staticmethod
    async def start(number: int, config: ServerConfig, own: OwnKey | None = None) -> "Worker":
        """Starts a worker in a new interpreter, because neither gRPC nor threads survive a fork.
        Raises `OSError`."""
        ours, theirs = socket.socketpair()
        try:
            process = _spawn(theirs.fileno())
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        channel = await Channel.of(ours)
        return Worker(number, process, channel, Begin(number=number, config=config, own=own))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def attend(
        self,
        *,
        loaded: Callable[[], None],
        changed: Callable[[], None],
        serving: Callable[[], None],
        samples: Callable[[Sequence[Family]], None],
    ) -> Ended:
        """Sends the worker its configuration, calls the callbacks for its messages, and returns
        when the worker has ended."""
        await self._channel.send(self._begin)
        message, since = "", None
        while (received := await self._channel.receive()) is not None:
            self._connected = True
            match received:
                case Loaded(models=models):
                    self.models = models
                    loaded()
                case Changed(models=models):
                    self.models = models
                    changed()
                case Serving():
                    since = time.monotonic()
                    serving()
                case Samples(families=families, answers=answers):
                    samples(families)
                    if answers in self._requested:
                        self._requested[answers].set()
                case Failed(message=message):
                    pass
                case _:
                    raise TypeError(f"{type(received).__name__} is no message for a supervisor")
        served = 0.0 if since is None else time.monotonic() - since
        self._connected = False
        for arrived in self._requested.values():
            arrived.set()
        code = await asyncio.to_thread(self._process.wait)
        await self._channel.close()
        return Ended(code=code, message=message, served=served)

    async def report(self) -> None:
        """Requests the worker's samples. Returns when the samples have come or the worker is
        gone."""
        if not self._connected:
            return
        number = next(self._numbers)
        arrived = self._requested[number] = asyncio.Event()
        try:
            await self._channel.send(Report(number=number))
            await arrived.wait()
        finally:
            del self._requested[number]

    async def listen(self) -> None:
        """Orders the worker to accept connections as soon as possible."""
        await self._channel.send(Listen())

    async def rescan(self) -> None:
        """Orders the worker to rescan the repository."""
        await self._channel.send(Rescan())

    async def stop(self, *, at_once: bool = False) -> None:
        """Orders the worker to stop. Does not wait for the worker's end."""
        await self._channel.send(Stop(at_once=at_once))

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


def _spawn(descriptor: int) -> "subprocess.Popen[bytes]":
    """Starts the worker's process with signals blocked.

    The worker unblocks SIGTERM when its handler is ready; until then a signal would kill the
    process. In this process the signals are blocked only during this function, without an `await`:
    overlapping starts would restore each other's signal masks.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {*SIGNALS, signal.SIGHUP})
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "elman_server.workers", str(descriptor)],
            stdin=subprocess.DEVNULL,
            pass_fds=[descriptor],
            env={**os.environ, "PYTHONPATH": _import_path()},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _import_path() -> str:
    """Returns this process's import path as absolute paths, so the worker finds the same
    modules."""
    return os.pathsep.join(os.path.abspath(path) for path in sys.path)
