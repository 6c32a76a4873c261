"""Worker: a server of `server.py`, controlled only by the supervisor.

If the supervisor is gone, the worker stops gracefully.
"""

import asyncio
import signal
import socket
from collections.abc import Callable, Collection

from elman_server.durable.named.opening import open_state_store
from elman_server.errors import StartError
from elman_server.process.clock import Clock
from elman_server.process.eventloop import runner
from elman_server.process.watchdog import Watchdog, leave
from elman_server.server import Server, assemble, exit_code
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
    Report,
    Rescan,
    Samples,
    Serving,
    Stop,
)

_REPORT_SECONDS = 1.0
"""Seconds between unrequested reports. A killed worker loses the counts since its last report."""
_CANT_START = 2


def main(descriptor: int) -> int:
    """Serves until the order to stop, and returns the exit code. `descriptor` is the worker's end
    of the socket."""
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
    # SIGTERM to a single worker is a request to replace the worker. A worker starts with SIGTERM,
    # SIGINT and SIGHUP blocked. SIGINT and SIGHUP stay blocked, because only the supervisor handles
    # them: Ctrl-C in a terminal reaches all processes.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.drain.set)
    watchdog = Watchdog(grace=config.grace_period, heard={signal.SIGTERM}, peer=connected)
    watchdog.watch()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    async def report_change() -> None:
        await channel.send(Changed(models=tuple(server.models)))

    following = asyncio.create_task(orders.follow(channel, reports))
    reporting = asyncio.create_task(reports.send_regularly())
    reporting.add_done_callback(lambda _: orders.stop())
    try:
        assembly = assemble(
            config,
            Clock(),
            open_state_store(config),
            metrics=reports.metrics,
            children=Children(),
            own=begin.own,
            changed=report_change,
        )
        server = Server(assembly)
        orders.rescan = server.rescan
        try:
            models = await server.load(stopping)
            if models is not None:
                await channel.send(Loaded(models=tuple(models)))
                await orders.listen.wait()
            if not stopping.drain.is_set():
                # Bind only now, so no connection comes before the worker can serve.
                await server.bind()
                await server.ready()
                await channel.send(Serving())
            await server.stop_when_requested(stopping)
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
                task.result()  # raises the task's error, not seen so far
        if late:
            leave(exit_code(late))
    return 0


class _Orders:
    """Orders of the supervisor, as events and calls in the worker."""

    def __init__(self, stopping: Stopping) -> None:
        self._stopping = stopping
        self.listen = asyncio.Event()
        """Set on the order to listen, and on the stop."""
        self.rescan: Callable[[], None] = lambda: None
        """Requests a rescan of the repository; does nothing until there is a server."""

    async def follow(self, channel: Channel, reports: "_Reports") -> None:
        """Follows orders until the supervisor is gone.

        The worker stops after any end of this method, also after an error, since no further order
        can come.
        """
        try:
            while (message := await channel.receive()) is not None:
                match message:
                    case Listen():
                        self.listen.set()
                    case Report(number=number):
                        await reports.send(number)
                    case Rescan():
                        self.rescan()
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
    """The worker's metrics and their reports to the supervisor.

    Reports are sent in sequence, so the supervisor never gets an older report after a newer
    report.
    """

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
