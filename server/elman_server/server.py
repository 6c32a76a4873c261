"""The server's life: bind, load, serve, drain, stop."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable
from http.server import HTTPServer

import structlog

from elman_server.admission import Admission
from elman_server.config import ServerConfig
from elman_server.engine.session import Ending, EndReason
from elman_server.errors import ModelLoadError
from elman_server.metrics import Metrics
from elman_server.repository import BUNDLED, ModelRepository, ModelSource
from elman_server.served import Catalog, LoadedModel, ServedModel
from elman_server.transport.endpoint import Endpoint
from elman_server.transport.servicer import InferenceServicer

_SWITCH_INTERVAL = 0.5e-3
"""Seconds. A step's thread that comes back from ONNX Runtime waits for at most this long for the
interpreter while the event loop is busy; Python's own 5 ms is as long as many steps."""

_STOPPING = Ending(reason=EndReason.SHUTDOWN, message="the server is stopping")
_CLOSE_SECONDS = 1.0
"""How long RPCs get after their sessions have ended, to take what is still written to them."""


class StartError(Exception):
    """The server can't start; the message is one line."""


def run(config: ServerConfig) -> int:
    """Serves until SIGTERM or SIGINT, then stops gracefully; a second signal stops at once.

    Returns the exit code. Raises `StartError`.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_Server(config).run())


class _Server:
    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._log = structlog.get_logger("elman.server")
        self._metrics = Metrics()
        self._catalog = Catalog()
        self._admission = Admission(
            max_sessions=config.max_sessions,
            max_pending_elements=config.max_pending_elements,
            max_context_bytes=config.max_context_bytes,
            retry_after=config.retry_after,
        )
        self._servicer = InferenceServicer(
            catalog=self._catalog, admission=self._admission, config=config, metrics=self._metrics
        )
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signals.put_nowait, number)
        sources = self._sources()
        metrics_http = self._bind_metrics()
        endpoint = Endpoint(self._config, self._servicer)
        try:
            port = await self._bind(endpoint)
            self._log.info(
                "starting", grpc_port=port, metrics_port=metrics_http.server_port, pid=os.getpid()
            )
            # The models load beside the signals, so that a stop is heard at any time.
            loading = asyncio.create_task(self._load(sources, endpoint))
            stop = asyncio.create_task(self._signals.get())
            await asyncio.wait({loading, stop}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
                await endpoint.ready()
                self._log.info(
                    "serving",
                    grpc_port=port,
                    metrics_port=metrics_http.server_port,
                    host=self._config.host,
                    models=len(list(self._catalog)),
                )
            await self._stop(await stop, endpoint)
            if not loading.done():
                await loading
        finally:
            await endpoint.stop(0)
            metrics_http.shutdown()
            metrics_http.server_close()
            for model in self._catalog:
                await model.engine.stop()
        self._log.info("stopped")
        return 0

    def _sources(self) -> list[ModelSource]:
        """What to load. Raises `StartError` if there is nothing, or something twice."""
        paths = [self._config.repository] if self._config.repository else []
        found: list[ModelSource] = []
        try:
            for path in [*paths, *([BUNDLED] if self._config.demo else [])]:
                found += ModelRepository(path).sources()
        except ModelLoadError as error:
            raise StartError(str(error)) from None
        seen: dict[tuple[str, str], ModelSource] = {}
        for source in found:
            other = seen.setdefault((source.name, source.version), source)
            if other is not source:
                raise StartError(
                    f"model {source.name!r} version {source.version} is there twice: {other.path} "
                    f"and {source.path}"
                )
        return found

    def _bind_metrics(self) -> HTTPServer:
        host, port = self._config.host, self._config.metrics_port
        try:
            return self._metrics.serve(host, port)
        except OSError as error:
            raise StartError(f"metrics_port {port} on {host}: {error.strerror}") from None

    async def _bind(self, endpoint: Endpoint) -> int:
        try:
            return await endpoint.start()
        except RuntimeError:
            raise StartError(
                f"port {self._config.port} on {self._config.host} can't be bound; it may be in use"
            ) from None

    async def _load(self, sources: list[ModelSource], endpoint: Endpoint) -> None:
        """Loads one model after another. Raises `StartError` if one fails and the server is
        strict, or if none is left to serve."""
        for source in sources:
            if self._admission.closed:
                return
            try:
                loaded = await asyncio.to_thread(LoadedModel.load, source, self._config)
            except ModelLoadError as error:
                if self._config.strict:
                    raise StartError(str(error)) from None
                self._log.error("model not loaded", model=source.name, error=str(error))
                continue
            self._catalog.add(
                ServedModel.serve(loaded, self._config, self._admission, self._metrics)
            )
            await endpoint.model_ready(source.name)
            self._log_loaded(loaded)
        if not list(self._catalog):
            raise StartError("no model could be loaded")
        # What is there now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()

    def _log_loaded(self, loaded: LoadedModel) -> None:
        name, version = loaded.source.name, loaded.source.version
        self._log.info(
            "model ready",
            model=name,
            version=version,
            fingerprint=loaded.file.fingerprint[:12],
            chunking=loaded.probe.chunking.value,
            max_batch_size=loaded.limits(self._config).max_batch_size,
            state_bytes=loaded.file.spec.state_bytes,
        )
        if loaded.probe.batch_failure and loaded.file.spec.batched:
            self._log.warning(
                "served unbatched",
                model=name,
                version=version,
                found=loaded.probe.batch_failure,
            )
        if loaded.probe.dependent_rows:
            batched = self._config.allow_dependent_rows
            self._log.warning(
                "rows of a batch affect one another; "
                + ("batched all the same, as configured" if batched else "served unbatched"),
                model=name,
                version=version,
                found=loaded.probe.dependent_rows,
            )

    async def _stop(self, received: signal.Signals, endpoint: Endpoint) -> None:
        grace = self._config.grace_period
        self._log.info("stopping", signal=received.name, grace_period=grace)
        await endpoint.not_serving()
        self._admission.closed = True
        drain = asyncio.create_task(self._drain(grace))
        again = asyncio.create_task(self._signals.get())
        await asyncio.wait({drain, again}, return_when=asyncio.FIRST_COMPLETED)
        if not drain.done():
            self._log.warning("stopping at once", signal=again.result().name)
            drain.cancel()
            await self._drain(0)
        again.cancel()
        await endpoint.stop(_CLOSE_SECONDS)

    async def _drain(self, grace: float) -> None:
        """Answers what was pushed and tells the clients, or gives up after `grace` seconds."""
        end = asyncio.get_running_loop().time() + grace
        await asyncio.gather(
            *(model.engine.drain(_STOPPING, grace=grace) for model in self._catalog)
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                await self._servicer.finish()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.new_event_loop
    return uvloop.new_event_loop
