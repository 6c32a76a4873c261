"""The server's life: bind, load, serve, drain, stop."""

import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import replace

import structlog

from elman_server.config import ServerConfig
from elman_server.durable.named.opening import open_lease_keeper
from elman_server.durable.store.opening import redacted
from elman_server.durable.tickets.keptkey import OwnKey, own_key
from elman_server.durable.tickets.keyring import Keyring
from elman_server.durable.tickets.keys import parse_key
from elman_server.engine.admission import Admission
from elman_server.engine.session import Ending, EndReason
from elman_server.errors import StartError
from elman_server.frontend.grpcio.endpoint import Endpoint
from elman_server.frontend.grpcio.gate import Gate
from elman_server.frontend.grpcio.servicer import InferenceServicer
from elman_server.process import memory
from elman_server.process.watchdog import Watchdog, leave
from elman_server.serving.loading.children import Children
from elman_server.serving.loading.loader import Loader
from elman_server.serving.model_manager import ModelManager
from elman_server.serving.served import Catalog, ServedModel
from elman_server.stopping import Stages, Stopping, heed_hangup
from elman_server.telemetry.exposition import exposed
from elman_server.telemetry.metrics import Metrics

_SWITCH_INTERVAL = 0.5e-3
"""Seconds. A step's thread that comes back from ONNX Runtime waits for at most this long for the
interpreter while the event loop is busy; Python's own 5 ms is as long as many steps."""

_STOPPING = Ending(reason=EndReason.SHUTDOWN, message="the server is stopping")
_MOVED = Ending(
    reason=EndReason.MOVED,
    message="the server is stopping; the session goes on elsewhere from its ticket",
)
_STATE_SHARE = 0.25
"""Of the memory, for the state of sessions: it is copied when it grows, so it takes twice that."""
_CLOSE_SECONDS = 1.0
"""How long RPCs get after their sessions have ended, to take what is still written to them."""
_AFTER_SECONDS = 3.0
"""What all that follows on the grace period may take, the last of the drain included. The watchdog
has a little more patience."""
_LEAST_SECONDS = 0.25
"""What a stage of the stop gets, however late it is."""
_CALLS, _LOADING = "calls", "loading"
_HARMLESS = {_CALLS, _LOADING}
"""Stages that may be left behind without loss: no session is left by then."""


def run(config: ServerConfig, children: Children) -> int:
    """Serves until SIGTERM or SIGINT, then stops gracefully; a second signal stops at once.

    `children` load the models. Returns the exit code. Raises `StartError`.
    """
    with runner() as loop:
        return loop.run(_alone(config, children))


def exit_code(late: Collection[str]) -> int:
    """Of a stop that left those stages behind."""
    return int(not _HARMLESS.issuperset(late))


def runner() -> asyncio.Runner:
    """What serves on this process's main thread."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    return asyncio.Runner(loop_factory=_loop_factory())


async def _alone(config: ServerConfig, children: Children) -> int:
    """The server as the only one on its port."""
    log = structlog.get_logger("elman.server")
    stopping = Stopping()
    stopping.heed_signals(config.grace_period)
    watchdog = Watchdog(grace=config.grace_period)
    watchdog.watch()
    metrics = Metrics()
    own = None if config.ticket_key else own_key()
    if own is not None:
        config = replace(config, ticket_key=(own.text,))
    with exposed(metrics.registry, config.host, config.metrics_port) as metrics_port:
        server = Server(config, metrics, children, own=own)
        heed_hangup(server.look)
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
            await server.stop_when_told(stopping)
        finally:
            watchdog.stop_within()
            await server.close()
    log.info("stopped")
    code = exit_code(server.late)
    if server.late:
        leave(code)
    return code


class Server:
    """The gRPC server of one process. To be made within the event loop that serves it."""

    def __init__(
        self,
        config: ServerConfig,
        metrics: Metrics,
        children: Children,
        *,
        own: OwnKey | None = None,
        changed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`config` has a ticket key, which is `own` if none was configured. `changed` is called
        when other versions are served than before. Raises `StartError` if there is nothing to
        serve."""
        self._config = config
        self._loading: asyncio.Task[None] | None = None
        self._stages = Stages()
        self._catalog = Catalog()
        self._admission = Admission(
            max_sessions=config.max_sessions,
            max_pending_elements=config.max_pending_elements,
            max_context_bytes=config.max_context_bytes,
            retry_after=config.retry_after,
            max_state_bytes=(
                config.max_state_bytes or _STATE_SHARE * memory.limit() / config.workers
            ),
            max_pending_bytes=config.max_pending_bytes,
        )
        self._lease_keeper = open_lease_keeper(config, metrics)
        gate = Gate(config, metrics)
        self._servicer = InferenceServicer(
            catalog=self._catalog,
            admission=self._admission,
            config=config,
            gate=gate,
            metrics=metrics,
            lease_keeper=self._lease_keeper,
        )
        self._endpoint = Endpoint(config, self._servicer, gate)
        self._manager = ModelManager(
            config=config,
            catalog=self._catalog,
            admission=self._admission,
            metrics=metrics,
            keyring=Keyring(
                [parse_key(key) for key in config.ticket_key],
                keep=None if own is None else lambda: parse_key(own.keep()),
            ),
            front=self._endpoint,
            loader=Loader(children),
            changed=changed,
        )

    async def bind(self) -> int:
        """Takes the port, and returns it. Raises `StartError`."""
        if self._lease_keeper is not None:
            self._lease_keeper.start()
        try:
            return await self._endpoint.start()
        except RuntimeError:
            raise StartError(
                f"port {self._config.port} on {self._config.host} can't be bound; it may be in use"
            ) from None

    async def load(self, stopping: Stopping) -> Sequence[str] | None:
        """Loads the models and says which they are; or None if it is to stop before.

        Raises `StartError`.
        """
        # The models load beside the signals, so that a stop is heard at any time.
        self._loading = asyncio.create_task(self._load())
        told = asyncio.create_task(stopping.drain.wait())
        await asyncio.wait({self._loading, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if not self._loading.done():
            return None
        self._loading.result()
        self._manager.start()
        return self.models

    @property
    def models(self) -> list[str]:
        """Those that take sessions. They differ where the models do."""
        return [_identity(model) for model in self._catalog.current()]

    def look(self) -> None:
        """Has it see what came into the repository, and what went."""
        self._manager.look()

    async def ready(self) -> None:
        """Tells whoever asks for its health."""
        await self._endpoint.ready()

    @property
    def late(self) -> Collection[str]:
        """The stages of its stop that were left behind, as they took too long."""
        return self._stages.late

    async def stop_when_told(self, stopping: Stopping) -> None:
        """Returns when it has stopped: `_AFTER_SECONDS` after the grace period at the latest."""
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
        """Frees what it holds, however far it came."""
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
        """Raises `StartError`."""
        await self._manager.load()
        # What is there now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()

    async def _drain(self, grace: float) -> None:
        """Answers what was pushed and hands the sessions over to their clients, or gives up after
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


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.new_event_loop
    return uvloop.new_event_loop
