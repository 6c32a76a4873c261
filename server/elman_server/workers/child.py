"""A worker: a server as `server.py` makes it, told what to do by the supervisor alone.

It ends as soon as the supervisor is gone: gracefully, as if it had been told to.
"""

import asyncio
import signal
import socket
from collections.abc import Callable, Collection

from elman_server.errors import StartError
from elman_server.process.watchdog import Watchdog, leave
from elman_server.server import Server, exit_code, runner
from elman_server.serving.loading.children import Children
from elman_server.stopping import Stopping
from elman_server.telemetry import logs
from elman_server.telemetry.exposition import families
from elman_server.telemetry.metrics import Metrics
from elman_server.workers.channel import Channel
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

_REPORT_SECONDS = 1.0
"""Between two reports that nobody asked for: what a worker that is killed counts since the last is
lost."""
_CANT_START = 2


def main(descriptor: int) -> int:
    """Serves until told to stop. `descriptor`: the worker's end of the socket. Returns the exit
    code."""
    with runner() as loop:
        return loop.run(_work(socket.socket(fileno=descriptor)))


async def _work(connected: socket.socket) -> int:
    channel = await Channel.of(connected)
    begin = await channel.receive()
    if not isinstance(begin, Begin):
        return 0
    config = begin.config
    logs.configure(config.log_level, config.log_format, worker=begin.number)
    stopping, reports = Stopping(), _Reports(channel)
    orders = _Orders(stopping)
    late: Collection[str] = ()
    # Who sends SIGTERM to a worker wants another in its place. The supervisor starts workers with
    # all its signals blocked: Ctrl-C in a terminal comes to all, and is the supervisor's to heed,
    # and so is SIGHUP.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.drain.set)
    watchdog = Watchdog(grace=config.grace_period, heard={signal.SIGTERM}, peer=connected)
    watchdog.watch()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    async def tell_change() -> None:
        await channel.send(Changed(models=tuple(server.models)))

    following = asyncio.create_task(orders.follow(channel, reports))
    reporting = asyncio.create_task(reports.send_regularly())
    reporting.add_done_callback(lambda _: orders.stop())
    try:
        server = Server(config, reports.metrics, Children(), own=begin.own, changed=tell_change)
        orders.look = server.look
        try:
            models = await server.load(stopping)
            if models is not None:
                await channel.send(Loaded(models=tuple(models)))
                await orders.listen.wait()
            if not stopping.drain.is_set():
                # Only now: to who does not listen come no connections, that it could not serve yet.
                await server.bind()
                await server.ready()
                await channel.send(Serving())
            await server.stop_when_told(stopping)
        finally:
            watchdog.stop_within()
            await server.close()
            late = server.late
    except StartError as error:
        await channel.send(Failed(message=str(error)))
        return _CANT_START
    finally:
        reporting.cancel()
        await reports.send()
        following.cancel()
        await channel.close()
        await asyncio.wait({following, reporting})
        for task in (following, reporting):
            if not task.cancelled():
                task.result()  # of what failed nobody heard but by the stop
        if late:
            leave(exit_code(late))
    return 0


class _Orders:
    """What the supervisor says."""

    def __init__(self, stopping: Stopping) -> None:
        self._stopping = stopping
        self.listen = asyncio.Event()
        """Whether to wait no longer before taking connections, or before stopping."""
        self.look: Callable[[], None] = lambda: None
        """Has the server look at the repository, once there is one."""

    async def follow(self, channel: Channel, reports: "_Reports") -> None:
        """Until the supervisor is gone. However it ends, the worker is to stop: nobody else could
        tell it to."""
        try:
            while (message := await channel.receive()) is not None:
                match message:
                    case Listen():
                        self.listen.set()
                    case Report(number=number):
                        await reports.send(number)
                    case Look():
                        self.look()
                    case Stop(at_once=at_once):
                        self.stop()
                        if at_once:
                            self._stopping.at_once.set()
                    case _:
                        raise TypeError(f"{type(message).__name__} is no message for a worker")
        finally:
            self.stop()

    def stop(self) -> None:
        self._stopping.drain.set()
        self.listen.set()


class _Reports:
    """What the worker counts, sent one after another, so that the supervisor hears of nothing
    older than what it has."""

    def __init__(self, channel: Channel) -> None:
        self.metrics = Metrics()
        self._channel = channel
        self._lock = asyncio.Lock()

    async def send(self, answers: int | None = None) -> None:
        async with self._lock:
            found = await asyncio.to_thread(families, self.metrics.registry)
            await self._channel.send(Samples(families=found, answers=answers))

    async def send_regularly(self) -> None:
        while True:
            await self.send()
            await asyncio.sleep(_REPORT_SECONDS)
