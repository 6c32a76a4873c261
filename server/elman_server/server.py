"""The composition root: a server's objects, and its life cycle: bind, load, serve, drain, stop."""

import asyncio
import contextlib
import gc
import os
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, replace

import structlog

from elman_server.config import ServerConfig
from elman_server.durable.named.lease_keeper import LeaseKeeper
from elman_server.durable.named.opening import new_lease_keeper, open_state_store
from elman_server.durable.store.interface import StateStore
from elman_server.durable.store.opening import redacted
from elman_server.durable.tickets.keptkey import OwnKey, own_key
from elman_server.durable.tickets.keyring import Keyring
from elman_server.durable.tickets.keys import parse_key
from elman_server.engine.admission import Admission
from elman_server.engine.sessions.ending import Ending, EndReason
from elman_server.errors import StartError
from elman_server.frontend.endpoint import Endpoint
from elman_server.frontend.gate.gate import Gate
from elman_server.frontend.grpcio.transport import GrpcioTransport
from elman_server.frontend.transport import Transport
from elman_server.frontend.wire.servicer import InferenceServicer
from elman_server.process import memory
from elman_server.process.clock import Clock
from elman_server.process.eventloop import runner
from elman_server.process.watchdog import Watchdog, leave
from elman_server.serving.loading.children import Children
from elman_server.serving.loading.loader import Loader
from elman_server.serving.model_manager import ModelManager
from elman_server.serving.served import Catalog, Resources, ServedModel
from elman_server.stopping import Stages, Stopping, handle_hangup
from elman_server.telemetry.exposition import exposed
from elman_server.telemetry.metrics import Metrics

_STOPPING = Ending(reason=EndReason.SHUTDOWN, message="the server is stopping")
_MOVED = Ending(
    reason=EndReason.MOVED,
    message="the server is stopping; the session goes on elsewhere from its ticket",
)
_STATE_SHARE = 0.25
"""Share of the memory for the state of sessions. Growing copies the state, and so needs twice the
share."""
_CLOSE_SECONDS = 1.0
"""Seconds for RPCs to deliver their last messages after their sessions have ended."""
_AFTER_SECONDS = 3.0
"""Seconds for the whole stop after the grace period, including the end of the drain. The watchdog
waits a little longer."""
_LEAST_SECONDS = 0.25
"""The shortest time limit of a stop's stage, however late the stage begins."""
_CALLS, _LOADING = "calls", "loading"
_HARMLESS = {_CALLS, _LOADING}
"""Stages which may be left running without loss, because no session is left by then."""


def run(config: ServerConfig, children: Children) -> int:
    """Serves until SIGTERM or SIGINT, then stops gracefully. A second signal stops at once.

    `children` load the models. Returns the exit code. Raises `StartError`.
    """
    with runner() as loop:
        return loop.run(_alone(config, children))


def exit_code(late: Collection[str]) -> int:
    """Returns the exit code of a stop with the given late stages."""
    return int(not _HARMLESS.issuperset(late))


async def _alone(config: ServerConfig, children: Children) -> int:
    """Runs a server as the only process on its port."""
    log = structlog.get_logger("elman.server")
    stopping = Stopping()
    stopping.handle_signals(config.grace_period)
    watchdog = Watchdog(grace=config.grace_period)
    watchdog.watch()
    metrics = Metrics()
    own = None if config.ticket_key else own_key()
    if own is not None:
        config = replace(config, ticket_key=(own.text,))
    with exposed(metrics.registry, config.host, config.metrics_port) as metrics_port:
        store = open_state_store(config)
        server = Server(
            assemble(config, Clock(), store, metrics=metrics, children=children, own=own)
        )
        handle_hangup(server.rescan)
        watchdog.watch()
        try:
            port = await server.bind()
            log.info("starting", grpc_port=port, metrics_port=metrics_port, pid=os.getpid())
            if own is not None:
                own.log()
            models = await server.load(stopping)
            if models is not None:
                await server.ready()
                log.info(
                    "serving",
                    grpc_port=port,
                    metrics_port=metrics_port,
                    host=config.host,
                    models=len(models),
                    state_store=redacted(config.state_store) or None,
                )
            await server.stop_when_requested(stopping)
        finally:
            watchdog.stop_within()
            await server.close()
    log.info("stopped")
    code = exit_code(server.late)
    if server.late:
        leave(code)
    return code


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """The objects of a server, connected, before the server binds its port."""

    config: ServerConfig
    metrics: Metrics
    catalog: Catalog
    admission: Admission
    lease_keeper: LeaseKeeper | None
    servicer: InferenceServicer
    endpoint: Endpoint
    manager: ModelManager


def assemble(
    config: ServerConfig,
    clock: Clock,
    store: StateStore | None,
    *,
    metrics: Metrics,
    children: Children,
    own: OwnKey | None = None,
    changed: Callable[[], Awaitable[None]] | None = None,
    transport: Transport | None = None,
) -> Assembly:
    """Creates the objects of a server, in the serving event loop.

    `config` must have a ticket key: `own`, if none was configured. `store` holds the named
    sessions, if the server has any. `changed` is called after a change of the served versions.
    `transport` is grpcio's by default.
    """
    catalog = Catalog()
    admission = Admission(
        max_sessions=config.max_sessions,
        max_pending_elements=config.max_pending_elements,
        max_context_bytes=config.max_context_bytes,
        retry_after=config.retry_after,
        max_state_bytes=config.max_state_bytes or _STATE_SHARE * memory.limit() / config.workers,
        max_pending_bytes=config.max_pending_bytes,
    )
    lease_keeper = None if store is None else new_lease_keeper(store, config, metrics, clock)
    gate = Gate(config, metrics, clock=clock.monotonic)
    servicer = InferenceServicer(
        catalog=catalog,
        admission=admission,
        config=config,
        gate=gate,
        metrics=metrics,
        clock=clock.monotonic,
        lease_keeper=lease_keeper,
    )
    if transport is None:
        transport = GrpcioTransport(config, gate.connection_closed, clock=clock.monotonic)
    endpoint = Endpoint(servicer, gate, transport)
    keyring = Keyring(
        [parse_key(key) for key in config.ticket_key],
        keep=None if own is None else lambda: parse_key(own.keep()),
    )
    manager = ModelManager(
        resources=Resources(
            config=config, admission=admission, metrics=metrics, keyring=keyring, clock=clock
        ),
        catalog=catalog,
        front=endpoint,
        loader=Loader(children),
        changed=changed,
    )
    return Assembly(
        config=config,
        metrics=metrics,
        catalog=catalog,
        admission=admission,
        lease_keeper=lease_keeper,
        servicer=servicer,
        endpoint=endpoint,
        manager=manager,
    )


class Server:
    """The life cycle of an assembled server, in the serving event loop."""

    def __init__(self, assembly: Assembly) -> None:
        """Raises `StartError` if there is nothing to serve."""
        self._config = assembly.config
        self._catalog = assembly.catalog
        self._admission = assembly.admission
        self._lease_keeper = assembly.lease_keeper
        self._servicer = assembly.servicer
        self._endpoint = assembly.endpoint
        self._manager = assembly.manager
        self._loading: asyncio.Task[None] | None = None
        self._stages = Stages()
        self._manager.scan()

    async def bind(self) -> int:
        """Binds the port, and returns its number. Raises `StartError`."""
        if self._lease_keeper is not None:
            self._lease_keeper.start()
        try:
            return await self._endpoint.start()
        except RuntimeError:
            raise StartError(
                f"port {self._config.port} on {self._config.host} can't be bound; it may be in use"
            ) from None

    async def load(self, stopping: Stopping) -> Sequence[str] | None:
        """Loads the models, and returns their identities; None if a stop begins before the end of
        the load.

        Raises `StartError`.
        """
        # Load the models concurrently with the signals, so that a stop works at any time.
        self._loading = asyncio.create_task(self._load())
        requested = asyncio.create_task(stopping.drain.wait())
        await asyncio.wait({self._loading, requested}, return_when=asyncio.FIRST_COMPLETED)
        requested.cancel()
        if not self._loading.done():
            return None
        self._loading.result()
        self._manager.start()
        return self.models

    @property
    def models(self) -> list[str]:
        """Identities of the models open for sessions. Different models have different
        identities."""
        return [_identity(model) for model in self._catalog.current()]

    def rescan(self) -> None:
        """Rescans the repository for new and removed versions."""
        self._manager.rescan()

    async def ready(self) -> None:
        """Reports the server as healthy to health checks."""
        await self._endpoint.ready()

    @property
    def late(self) -> Collection[str]:
        """The stages of the stop which exceeded their time."""
        return self._stages.late

    async def stop_when_requested(self, stopping: Stopping) -> None:
        """Waits for a stop, and stops the server. Returns `_AFTER_SECONDS` after the grace period
        at the latest."""
        await stopping.drain.wait()
        clock = asyncio.get_running_loop().time
        grace = self._config.grace_period
        end = clock() + grace + _AFTER_SECONDS
        self._endpoint.not_serving()
        self._admission.closed = True
        if self._lease_keeper is not None:
            self._lease_keeper.refuse()
        drain = asyncio.create_task(self._drain(grace))
        at_once = asyncio.create_task(stopping.at_once.wait())
        await asyncio.wait(
            {drain, at_once},
            timeout=grace + _AFTER_SECONDS / 2,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if at_once.done():
            end = min(end, clock() + _AFTER_SECONDS)
        if not drain.done():
            drain.cancel()
            await self._within(_CLOSE_SECONDS, "draining", self._drain(0))
        at_once.cancel()
        await self._within(2 * _CLOSE_SECONDS, _CALLS, self._endpoint.stop(_CLOSE_SECONDS))
        await self._within(end - clock(), "named sessions", self._give_up_names())
        await self._end_loading()

    async def close(self) -> None:
        """Frees all resources, at any stage of the start or the stop."""
        await self._within(_CLOSE_SECONDS, _CALLS, self._endpoint.stop(0))
        await self._within(_AFTER_SECONDS, "named sessions", self._give_up_names())
        await self._end_loading()
        stops = [model.engine.stop() for model in self._catalog]
        for stopped in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(stopped, TimeoutError):
                self._stages.late.append(str(stopped))
            elif isinstance(stopped, BaseException):
                raise stopped

    async def _end_loading(self) -> None:
        await self._within(_CLOSE_SECONDS, _LOADING, self._manager.stop())
        loading, self._loading = self._loading, None
        if loading is not None:
            await self._within(_LEAST_SECONDS, _LOADING, _ended(loading))

    async def _within(
        self, seconds: float, stage: str, work: Coroutine[None, None, object]
    ) -> None:
        await self._stages.within(max(_LEAST_SECONDS, seconds), stage, work)

    async def _give_up_names(self) -> None:
        lease_keeper, self._lease_keeper = self._lease_keeper, None
        if lease_keeper is not None:
            await lease_keeper.stop()

    async def _load(self) -> None:
        """Loads the models. Raises `StartError`."""
        await self._manager.load()
        # All present objects stay: the collector need not scan them again.
        gc.collect()
        gc.freeze()

    async def _drain(self, grace: float) -> None:
        """Answers the pushed elements and hands the sessions over to their clients. Gives up after
        `grace` seconds."""
        end = asyncio.get_running_loop().time() + grace
        await asyncio.gather(
            *(
                model.engine.drain(_MOVED if model.tickets.available else _STOPPING, grace=grace)
                for model in self._catalog
            )
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                await self._servicer.finish()


async def _ended(task: "asyncio.Task[None]") -> None:
    await task


def _identity(model: ServedModel) -> str:
    return f"{model.source.name}/{model.source.version} {model.file.fingerprint[:12]}"
