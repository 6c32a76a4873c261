"""A worker process as the supervisor sees it."""

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
from elman_server.workers.channel import Channel
from elman_server.workers.families import Family
from elman_server.workers.messages import (
    Begin,
    Changed,
    Failed,
    Listen,
    Loaded,
    Look,
    Report,
    Samples,
    Serving,
    Stop,
)

_IDENTITIES = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a worker ended."""

    code: int
    """Its exit code; less than 0 for the number of the signal that killed it."""
    message: str
    """Why it could not start, or empty."""
    served: float
    """Seconds from when it served; 0 if it never did."""

    @property
    def how(self) -> str:
        if self.message:
            return self.message
        if self.code < 0:
            return f"killed by {_name(-self.code)}"
        return f"exit code {self.code}"


class Worker:
    """Made by `start`. For one event loop."""

    def __init__(
        self, number: int, process: "subprocess.Popen[bytes]", channel: Channel, begin: Begin
    ) -> None:
        self.number = number
        self.identity = next(_IDENTITIES)
        """That no other process of this supervisor ever has."""
        self.models: tuple[str, ...] = ()
        """What it serves, as soon as it has loaded them."""
        self._process = process
        self._channel = channel
        self._begin = begin
        self._heard = False
        self._asked: dict[int, asyncio.Event] = {}
        self._numbers = itertools.count(1)

    @staticmethod
    async def start(number: int, config: ServerConfig, own: OwnKey | None = None) -> "Worker":
        """A fresh interpreter, as neither gRPC nor threads outlive a fork. Raises `OSError`."""
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
        """Tells it what to serve, and the callers what comes of it; returns when it has ended."""
        await self._channel.send(self._begin)
        message, since = "", None
        while (heard := await self._channel.receive()) is not None:
            self._heard = True
            match heard:
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
                    if answers in self._asked:
                        self._asked[answers].set()
                case Failed(message=message):
                    pass
                case _:
                    raise TypeError(f"{type(heard).__name__} is no message for a supervisor")
        served = 0.0 if since is None else time.monotonic() - since
        self._heard = False
        for asked in self._asked.values():
            asked.set()
        code = await asyncio.to_thread(self._process.wait)
        await self._channel.close()
        return Ended(code=code, message=message, served=served)

    async def report(self) -> None:
        """Has it tell its samples now; returns when it has, or when it is gone."""
        if not self._heard:
            return
        number = next(self._numbers)
        asked = self._asked[number] = asyncio.Event()
        try:
            await self._channel.send(Report(number=number))
            await asked.wait()
        finally:
            del self._asked[number]

    async def listen(self) -> None:
        """Has it take connections as soon as it can serve them."""
        await self._channel.send(Listen())

    async def look(self) -> None:
        """Has it see what came into the repository, and what went."""
        await self._channel.send(Look())

    async def stop(self, *, at_once: bool = False) -> None:
        """Says it; does not wait for its end."""
        await self._channel.send(Stop(at_once=at_once))

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


def _spawn(descriptor: int) -> "subprocess.Popen[bytes]":
    """All signals are blocked until the worker is ready for them: what it does by default is to
    die. Here they are blocked for no longer than this takes, with no `await` in between: of two
    starts that overlap each would give back what the other had made of them."""
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
    except ValueError:  # one of those for real time
        return f"signal {number}"


def _import_path() -> str:
    """Has the worker find the same modules, wherever it runs."""
    return os.pathsep.join(os.path.abspath(path) for path in sys.path)
