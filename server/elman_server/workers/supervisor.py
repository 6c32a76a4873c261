"""Supervisor: starts, restarts and stops N workers on a shared port, with a common `/metrics`.

The supervisor serves no sessions and imports no module for serving.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace

import structlog

from elman_server.config import ServerConfig
from elman_server.durable.tickets.keptkey import OwnKey, own_key
from elman_server.errors import StartError
from elman_server.process.watchdog import PATIENCE, Watchdog
from elman_server.stopping import Stopping, handle_hangup
from elman_server.telemetry.exposition import exposed, families, process_registry, registry_of
from elman_server.telemetry.family import Family
from elman_server.workers.backoff import Backoff
from elman_server.workers.families import Tally, merge
from elman_server.workers.port import reserved
from elman_server.workers.worker import Ended, Worker

_REPORT_TIMEOUT = 1.0
"""Seconds to wait for a worker to receive a message or to answer. If a worker does not answer, a
scrape uses the worker's last samples."""
_SCRAPE_TIMEOUT = 10.0
_PATIENCE = PATIENCE + 0.25
"""Seconds from the end of the grace period, or from the order to stop at once, until a worker is
killed. The worker's own watchdog should end the worker earlier."""
_KILLED_SECONDS = 0.3
"""Seconds to wait for killed workers to end."""


def run(config: ServerConfig) -> int:
    """Serves with `config.workers` processes until SIGTERM or SIGINT, then stops gracefully.

    A second signal stops all workers at once. Returns the exit code. Raises `StartError` if the
    port is not available, or if a worker ends before all workers have served.
    """
    return asyncio.run(_run(config))


async def _run(config: ServerConfig) -> int:
    stopping = Stopping()
    stopping.handle_signals(config.grace_period)
    log = structlog.get_logger("elman.server")
    with reserved(config.host, config.port) as port:
        own = None if config.ticket_key else own_key()
        if own is not None:  # all workers share the key
            config = replace(config, ticket_key=(own.text,))
        supervisor = Supervisor(replace(config, port=port), stopping, own)
        handle_hangup(supervisor.rescan)
        watchdog = Watchdog(
            grace=config.grace_period,
            patience=_PATIENCE + 2 * _KILLED_SECONDS,
            last=supervisor.kill,
        )
        watchdog.watch()
        loop = asyncio.get_running_loop()

        def read() -> Sequence[Family]:
            """Reads the metrics; runs on the thread of a scrape."""
            summed = asyncio.run_coroutine_threadsafe(supervisor.families(), loop)
            return summed.result(_SCRAPE_TIMEOUT)

        with exposed(registry_of(read), config.host, config.metrics_port) as metrics_port:
            log.info(
                "starting",
                grpc_port=port,
                metrics_port=metrics_port,
                pid=os.getpid(),
                workers=config.workers,
            )
            if own is not None:
                own.log()
            supervisor.start()
            try:
                models = await supervisor.serving()
                if models is not None:
                    log.info(
                        "serving",
                        grpc_port=port,
                        metrics_port=metrics_port,
                        host=config.host,
                        models=len(models),
                        workers=config.workers,
                    )
                await supervisor.until_stopped()
            finally:
                watchdog.stop_within()
                await supervisor.stop()
    log.info("stopped")
    return 0


class Supervisor:
    """Keeps `config.workers` workers running until the stop."""

    def __init__(self, config: ServerConfig, stopping: Stopping, own: OwnKey | None = None) -> None:
        """`own` is the generated ticket key in `config`, if no key was configured."""
        self._config = config
        self._own = own
        self._stopping = stopping
        self._log = structlog.get_logger("elman.workers")
        self._workers: dict[int, Worker] = {}
        """Live workers, by number."""
        self._keepers: list[asyncio.Task[None]] = []
        self._loaded: set[int] = set()
        self._all_loaded = asyncio.Event()
        """Set when all of the first workers have loaded the models.

        Then the workers start to listen together. Otherwise the fastest worker would get all
        connections of clients waiting for the server's start."""
        self._all_serve = asyncio.Event()
        """Set when all of the first workers serve, or have served."""
        self._serving: set[int] = set()
        self._models: tuple[str, ...] | None = None
        """Served models as last reported by any worker; None before the first report."""
        self._rescans: set[asyncio.Task[None]] = set()
        self._tally = Tally()
        self._restarts = 0
        self._registry = process_registry()

    def start(self) -> None:
        numbers = range(1, self._config.workers + 1)
        self._keepers = [asyncio.create_task(self._keep(number)) for number in numbers]

    def rescan(self) -> None:
        """Requests a rescan of the repository in each worker."""
        for worker in self._workers.values():
            task = asyncio.create_task(worker.rescan())
            self._rescans.add(task)
            task.add_done_callback(self._rescans.discard)

    async def serving(self) -> Sequence[str] | None:
        """Waits until all workers serve, and returns the models; None if the stop came first.

        Raises `StartError` if a worker ended before all served.
        """
        await self._any(self._all_serve, self._stopping.drain)
        return None if self._stopping.drain.is_set() else self._models

    async def until_stopped(self) -> None:
        """Waits until the workers are to stop."""
        await self._any(self._stopping.drain)

    async def stop(self) -> None:
        """Stops all workers, and returns when all have ended or were killed.

        Workers may finish all pushed elements, until the grace period is over or the order comes to
        stop at once.
        """
        # A worker being started right now checks these events.
        failed = not self._stopping.drain.is_set()
        self._stopping.drain.set()
        if failed:
            self._stopping.at_once.set()
        all_ended = asyncio.create_task(self._all_ended())
        at_once = asyncio.create_task(self._stopping.at_once.wait())
        try:
            await self._order_stop(at_once=False)
            patience = self._config.grace_period + _PATIENCE
            await asyncio.wait(
                {all_ended, at_once}, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            if at_once.done() and not all_ended.done():
                await self._order_stop(at_once=True)
                await asyncio.wait({all_ended}, timeout=_PATIENCE)
            if not (late := list(self._workers.values())):
                await all_ended
                return
            for worker in late:
                self._log.error("worker killed, as it did not stop", worker=worker.number)
                worker.kill()
            await asyncio.wait({all_ended}, timeout=_KILLED_SECONDS)
        finally:
            at_once.cancel()

    def kill(self) -> None:
        """Kills all live workers. May be called from any thread."""
        for worker in list(self._workers.values()):
            worker.kill()

    async def _all_ended(self) -> None:
        for ended in await asyncio.gather(*self._keepers, return_exceptions=True):
            # A `StartError` was reported before; any other exception here is a bug.
            if isinstance(ended, BaseException) and not isinstance(ended, StartError):
                raise ended

    async def families(self) -> Sequence[Family]:
        """Returns the summed metrics of all workers and of the supervisor's own process."""
        workers = list(self._workers.values())
        if workers:
            tasks = [asyncio.create_task(worker.report()) for worker in workers]
            _, late = await asyncio.wait(tasks, timeout=_REPORT_TIMEOUT)
            for task in late:
                task.cancel()
        own = supervised(serving=len(self._serving), restarts=self._restarts)
        return merge([self._tally.families(), own, families(self._registry)])

    async def _keep(self, number: int) -> None:
        """Runs the worker with a number, and restarts the worker after each end, until the stop.

        Raises `StartError` if the worker ends before all workers have served.
        """
        backoff = Backoff()
        while True:
            ended = await self._one(number)
            if self._stopping.drain.is_set():
                return
            if not self._all_serve.is_set():
                raise StartError(ended.message or f"worker {number} did not start: {ended.how}")
            delay = backoff.delay(ended.served)
            log = self._log.info if ended.code == 0 else self._log.error
            log("worker ended", worker=number, how=ended.how, again_in=delay)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stopping.drain.wait()
            if self._stopping.drain.is_set():
                return
            self._restarts += 1

    async def _one(self, number: int) -> Ended:
        """Runs a single worker process from start to end."""
        try:
            worker = await Worker.start(number, self._config, self._own)
        except OSError as error:
            return Ended(code=1, message=f"it can't be started: {error.strerror}", served=0.0)
        self._workers[number] = worker
        if self._stopping.drain.is_set():
            await worker.stop(at_once=self._stopping.at_once.is_set())
        self._log.debug("worker started", worker=number, pid=worker.pid)
        listen = asyncio.create_task(self._listen(worker))
        try:
            return await worker.attend(
                loaded=lambda: self._on_loaded(worker),
                changed=lambda: self._on_changed(worker),
                serving=lambda: self._on_serving(worker),
                samples=lambda samples: self._tally.update(worker.identity, samples),
            )
        finally:
            listen.cancel()
            self._serving.discard(number)
            del self._workers[number]
            self._tally.end(worker.identity)

    async def _listen(self, worker: Worker) -> None:
        await self._all_loaded.wait()
        await worker.listen()

    def _on_loaded(self, worker: Worker) -> None:
        if self._models is None:
            self._models = worker.models
        elif worker.models != self._models:
            self._log.warning(
                "worker serves other models than the first did",
                worker=worker.number,
                models=worker.models,
                first=self._models,
            )
        self._loaded.add(worker.number)
        if len(self._loaded) == self._config.workers:
            self._all_loaded.set()

    def _on_changed(self, worker: Worker) -> None:
        """Records a worker's changed models. The other workers see the same repository, so they
        follow on their own."""
        self._models = worker.models

    def _on_serving(self, worker: Worker) -> None:
        self._log.info("worker serving", worker=worker.number, pid=worker.pid)
        self._serving.add(worker.number)
        if len(self._serving) == self._config.workers:
            self._all_serve.set()

    async def _order_stop(self, *, at_once: bool) -> None:
        orders = [worker.stop(at_once=at_once) for worker in self._workers.values()]
        # A worker that reads no messages must not delay the stop; it is killed later.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REPORT_TIMEOUT):
                await asyncio.gather(*orders)

    async def _any(self, *events: asyncio.Event) -> None:
        """Waits until any of the events is set, or a keeper task ends. Raises a keeper's
        exception."""
        waits = [asyncio.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait({*waits, *self._keepers}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        for keeper in self._keepers:
            if keeper.done():
                keeper.result()


def supervised(*, serving: int, restarts: int) -> tuple[Family, ...]:
    """Returns the supervisor's own metrics."""
    return (
        Family(
            name="elman_workers",
            kind="gauge",
            help="Worker processes that serve.",
            samples={("elman_workers", ()): serving},
        ),
        Family(
            name="elman_worker_restarts",
            kind="counter",
            help="Worker processes that were started in place of one that ended.",
            samples={("elman_worker_restarts_total", ()): restarts},
        ),
    )
