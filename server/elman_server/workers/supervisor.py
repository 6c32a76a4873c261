"""The supervisor: N workers on one port, from their start to their stop, and one `/metrics` of all.

It serves no sessions itself and loads none of what does.
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
from elman_server.stopping import Stopping, heed_hangup
from elman_server.telemetry.exposition import exposed, families, process_registry, registry_of
from elman_server.workers.backoff import Backoff
from elman_server.workers.families import Family, Tally, merge
from elman_server.workers.port import reserved
from elman_server.workers.worker import Ended, Worker

_REPORT_TIMEOUT = 1.0
"""Seconds for which a worker is waited for when it is spoken to. In a scrape what it told last
stands for one that does not answer."""
_SCRAPE_TIMEOUT = 10.0
_PATIENCE = PATIENCE + 0.25
"""Seconds beyond the grace period, or from when it is to be at once, after which a worker that
should have ended is killed. Its own watchdog should have ended it by then."""
_KILLED_SECONDS = 0.3
"""For how long the end of those is waited for."""


def run(config: ServerConfig) -> int:
    """Serves with `config.workers` processes until SIGTERM or SIGINT, then stops them gracefully;
    a second signal stops them at once.

    Returns the exit code. Raises `StartError` if the port can't be had, or if a worker ends before
    all of them served.
    """
    return asyncio.run(_run(config))


async def _run(config: ServerConfig) -> int:
    stopping = Stopping()
    stopping.heed_signals(config.grace_period)
    log = structlog.get_logger("elman.server")
    with reserved(config.host, config.port) as port:
        own = None if config.ticket_key else own_key()
        if own is not None:  # one for all of them
            config = replace(config, ticket_key=(own.text,))
        supervisor = Supervisor(replace(config, port=port), stopping, own)
        heed_hangup(supervisor.look)
        watchdog = Watchdog(
            grace=config.grace_period,
            patience=_PATIENCE + 2 * _KILLED_SECONDS,
            last=supervisor.kill,
        )
        watchdog.watch()
        loop = asyncio.get_running_loop()

        def read() -> Sequence[Family]:
            """On the thread of a scrape."""
            told = asyncio.run_coroutine_threadsafe(supervisor.families(), loop)
            return told.result(_SCRAPE_TIMEOUT)

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
    def __init__(self, config: ServerConfig, stopping: Stopping, own: OwnKey | None = None) -> None:
        """`own`: the ticket key in `config`, if none was configured."""
        self._config = config
        self._own = own
        self._stopping = stopping
        self._log = structlog.get_logger("elman.workers")
        self._workers: dict[int, Worker] = {}
        """That live, by number."""
        self._keepers: list[asyncio.Task[None]] = []
        self._loaded: set[int] = set()
        self._all_loaded = asyncio.Event()
        """Whether all of the first workers have loaded the models. Only then they listen, together:
        otherwise the quickest would get all the connections that wait for a server to start."""
        self._all_serve = asyncio.Event()
        """Whether all of the first workers serve, or did."""
        self._serving: set[int] = set()
        self._models: tuple[str, ...] | None = None
        """What all of them serve, once one does; as told last, by whichever of them."""
        self._looks: set[asyncio.Task[None]] = set()
        self._tally = Tally()
        self._restarts = 0
        self._registry = process_registry()

    def start(self) -> None:
        numbers = range(1, self._config.workers + 1)
        self._keepers = [asyncio.create_task(self._keep(number)) for number in numbers]

    def look(self) -> None:
        """Has each of them see what came into the repository, and what went."""
        for worker in self._workers.values():
            task = asyncio.create_task(worker.look())
            self._looks.add(task)
            task.add_done_callback(self._looks.discard)

    async def serving(self) -> Sequence[str] | None:
        """Returns when all of them serve: the models; or None if they were to stop before.

        Raises `StartError` if one ended instead.
        """
        await self._any(self._all_serve, self._stopping.drain)
        return None if self._stopping.drain.is_set() else self._models

    async def until_stopped(self) -> None:
        """Returns when they are to stop."""
        await self._any(self._stopping.drain)

    async def stop(self) -> None:
        """Has them finish what was pushed, within the grace period or until it is to be at once,
        and returns when all have ended, or were killed."""
        # Whoever starts just now looks here.
        failed = not self._stopping.drain.is_set()
        self._stopping.drain.set()
        if failed:
            self._stopping.at_once.set()
        all_ended = asyncio.create_task(self._all_ended())
        at_once = asyncio.create_task(self._stopping.at_once.wait())
        try:
            await self._tell(at_once=False)
            patience = self._config.grace_period + _PATIENCE
            await asyncio.wait(
                {all_ended, at_once}, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            if at_once.done() and not all_ended.done():
                await self._tell(at_once=True)
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
        """Kills those that live, from whichever thread."""
        for worker in list(self._workers.values()):
            worker.kill()

    async def _all_ended(self) -> None:
        for ended in await asyncio.gather(*self._keepers, return_exceptions=True):
            # Of one that can't start somebody heard before; anything else here is a bug.
            if isinstance(ended, BaseException) and not isinstance(ended, StartError):
                raise ended

    async def families(self) -> Sequence[Family]:
        """The metrics of all, the supervisor's own process among them."""
        workers = list(self._workers.values())
        if workers:
            tasks = [asyncio.create_task(worker.report()) for worker in workers]
            _, late = await asyncio.wait(tasks, timeout=_REPORT_TIMEOUT)
            for task in late:
                task.cancel()
        own = supervised(serving=len(self._serving), restarts=self._restarts)
        return merge([self._tally.families(), own, families(self._registry)])

    async def _keep(self, number: int) -> None:
        """Sees that there is a worker of that number until they are to stop. Raises `StartError`
        if the first one ends before all served."""
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
        """One worker from its start to its end."""
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
                loaded=lambda: self._heed_loaded(worker),
                changed=lambda: self._heed_changed(worker),
                serving=lambda: self._heed_serving(worker),
                samples=lambda told: self._tally.update(worker.identity, told),
            )
        finally:
            listen.cancel()
            self._serving.discard(number)
            del self._workers[number]
            self._tally.end(worker.identity)

    async def _listen(self, worker: Worker) -> None:
        await self._all_loaded.wait()
        await worker.listen()

    def _heed_loaded(self, worker: Worker) -> None:
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

    def _heed_changed(self, worker: Worker) -> None:
        """The others see what it saw."""
        self._models = worker.models

    def _heed_serving(self, worker: Worker) -> None:
        self._log.info("worker serving", worker=worker.number, pid=worker.pid)
        self._serving.add(worker.number)
        if len(self._serving) == self._config.workers:
            self._all_serve.set()

    async def _tell(self, *, at_once: bool) -> None:
        told = [worker.stop(at_once=at_once) for worker in self._workers.values()]
        # Who reads nothing any more holds up nobody: it is killed in the end.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REPORT_TIMEOUT):
                await asyncio.gather(*told)

    async def _any(self, *events: asyncio.Event) -> None:
        """Returns when one of them is set. Raises what a keeper raises."""
        waits = [asyncio.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait({*waits, *self._keepers}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        for lease_keeper in self._keepers:
            if lease_keeper.done():
                lease_keeper.result()


def supervised(*, serving: int, restarts: int) -> tuple[Family, ...]:
    """What a supervisor counts itself."""
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
