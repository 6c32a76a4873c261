"""Model manager: keeps the served versions in line with the repository.

A single task starts loads, serves loaded versions, retires versions and unloads them, in sequence,
while sessions go on. `versions.py` decides which versions to load and serve. The front accepts
sessions; this module knows only its `Front` port.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from elman_server.config import ServerConfig
from elman_server.errors import ModelLoadError, StartError
from elman_server.model import repository
from elman_server.model.repository import BUNDLED, ModelSource, Stamp
from elman_server.process import memory
from elman_server.serving.file_checks import FileChecks
from elman_server.serving.loading import probing
from elman_server.serving.loading.loaded import LoadedModel
from elman_server.serving.loading.loader import Loader
from elman_server.serving.loading.report import log_ready
from elman_server.serving.loads import Load, Loads
from elman_server.serving.retirements import Retirements
from elman_server.serving.served import Catalog, Resources, ServedModel
from elman_server.serving.versions import Comparison, compare
from elman_server.telemetry.metrics import LabelledMetrics
from elman_server.telemetry.table import LOAD_FAILURES, LOADING, LOADS, UNLOADS


class Front(Protocol):
    """Port to the part of the server that accepts sessions for models."""

    async def model_ready(self, name: str) -> None:
        """Notifies the front: the model accepts sessions."""

    async def model_gone(self, name: str) -> None:
        """Notifies the front: the model accepts only sessions that name a version."""

    def detach(self, model: ServedModel) -> None:
        """Detaches a version from all its holders, so they open no more sessions on it."""


_WRITING_SECONDS = 1.0
"""Seconds until a rescan, if a file changed during its load."""


class ModelManager:
    """Loads, retires and unloads versions as the repository changes."""

    def __init__(
        self,
        *,
        resources: Resources,
        catalog: Catalog,
        front: Front,
        loader: Loader,
        changed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`changed` is called whenever the set of served versions has changed."""
        config = resources.config
        self._resources = resources
        self._catalog = catalog
        self._front = front
        self._loader = loader
        self._changed = changed
        self._log = structlog.get_logger("elman.server")
        repositories = [config.repository] if config.repository else []
        self._paths = [*repositories, *([BUNDLED] if config.demo else [])]
        self._stamps: Mapping[ModelSource, Stamp] = {}
        """Versions in the repository, as of the last scan."""
        self._tried: dict[ModelSource, Stamp] = {}
        self._scan_error = ""
        """Error of the last scan, or empty."""
        self._wake = asyncio.Event()
        self._loads = Loads(finished=self._wake.set)
        self._retirements = Retirements(grace=config.version_grace, unused=self._wake.set)
        self._file_checks = FileChecks(loader)
        self._notifications: set[asyncio.Task[None]] = set()
        self._rescan_requested = False
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def scan(self) -> None:
        """Scans the repository for the first time. Raises `StartError` if there is nothing to
        serve."""
        try:
            self._stamps = _stamps(self._paths)
        except ModelLoadError as error:
            raise StartError(str(error)) from None
        self._catalog.update(current=(), expected=self._compare().load)

    async def load(self) -> None:
        """Loads the versions present at the start.

        Raises `StartError` if a load fails and the server is strict, or if no model was loaded.
        """
        await self._check_device()
        await self._reconcile()
        while self._loads and not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            await self._finish_loads(strict=self._config.strict)
            if self._rescan_requested:
                self._rescan_requested = False
                await self._rescan()
        if not list(self._catalog) and not self._resources.admission.closed:
            raise StartError("no model could be loaded")

    async def serve(self, loaded: LoadedModel) -> None:
        """Starts to serve a loaded version."""
        served = ServedModel.serve(
            loaded,
            self._resources,
            stuck=partial(self._report_stuck, loaded.source),
        )
        self._catalog.add(served)
        await self._front.model_ready(loaded.source.name)

    def start(self) -> None:
        """Starts rescans: on request, and at intervals if `reload_interval` is set."""
        self._task = asyncio.create_task(self._run())

    def rescan(self) -> None:
        """Requests a rescan of the repository as soon as possible. Idempotent."""
        self._rescan_requested = True
        self._wake.set()

    async def stop(self) -> None:
        """Cancels loads, retirements and checks, and ends the manager's task."""
        self._stopping = True
        self._wake.set()
        self._retirements.cancel()
        self._loads.cancel()
        self._file_checks.cancel()
        self._loader.close()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while not self._stopping:
            try:
                async with asyncio.timeout(self._config.reload_interval or None):
                    await self._wake.wait()
            except TimeoutError:
                self._rescan_requested = True
            self._wake.clear()
            try:
                await self._work()
            except Exception:  # no bug in loading or unloading may end sessions
                self._log.exception("bug while versions were loaded or unloaded")

    async def _work(self) -> None:
        """Does all that is due: finished loads, unused versions and requested rescans."""
        before = self._current()
        await self._finish_loads()
        unloaded = False
        while not self._stopping and (model := self._retirements.pop_unused()):
            await self._unload(model)
            unloaded = True
        if unloaded:
            await asyncio.to_thread(memory.give_back)
        if self._rescan_requested and not self._stopping:
            self._rescan_requested = False
            await self._rescan()
        if self._changed is not None and self._current() != before:
            await self._changed()

    async def _rescan(self) -> None:
        try:
            self._stamps = await asyncio.to_thread(_stamps, self._paths)
        except ModelLoadError as error:
            # A folder that is suddenly empty is probably not mounted.
            if str(error) != self._scan_error:
                self._scan_error = str(error)
                self._log.error("repository can't be used, nothing changes", error=str(error))
            return
        self._scan_error = ""
        await self._reconcile()

    @property
    def _config(self) -> ServerConfig:
        return self._resources.config

    def _current(self) -> list[ModelSource]:
        return [model.source for model in self._catalog.current()]

    def _compare(self) -> Comparison:
        return compare(
            self._stamps,
            loaded={model.source for model in self._catalog},
            tried=self._tried,
            keep=self._config.keep_versions,
        )

    async def _reconcile(self) -> None:
        """Acts on the last scan: retires versions, starts loads and checks changed files."""
        loaded = {model.source for model in self._catalog}
        known = loaded | self._stamps.keys()
        self._tried = {source: stamp for source, stamp in self._tried.items() if source in known}
        compared = self._compare()
        await self._set_current(compared)
        if self._stopping or self._resources.admission.closed:
            return
        self._loads.cancel_outdated(self._stamps)
        for source in compared.load:
            if source not in self._loads:
                self._counts(source)
                work = self._loader.load(source, self._config)
                self._loads.start(source, self._stamps[source], work)
        for source in compared.replaced:
            self._tried[source] = self._stamps[source]  # so each change is checked once
            model = self._catalog.get(source.name, source.version)
            self._file_checks.start(model, self._config)

    async def _set_current(self, compared: Comparison) -> None:
        """Retires and restores versions, and notifies the front of models with or without a current
        version."""
        before = {model.source.name for model in self._catalog.current()}
        self._catalog.update(current=compared.current, expected=compared.load)
        for model in self._catalog:
            source = model.source
            if source in compared.current:
                if self._retirements.restore(model):
                    self._log.info(
                        "model is served again", model=source.name, version=source.version
                    )
            elif source not in self._retirements:
                self._log.info(
                    "model retires",
                    model=source.name,
                    version=source.version,
                    sessions=model.engine.sessions,
                    why="newer versions serve" if source in self._stamps else "its files are gone",
                )
                self._retirements.retire(model)
        after = {source.name for source in compared.current}
        for name in before - after:
            await self._front.model_gone(name)
        for name in after - before:
            await self._front.model_ready(name)

    async def _finish_loads(self, *, strict: bool = False) -> None:
        """Serves the versions of finished loads, then reconciles again.

        Raises `StartError` if a load failed and `strict` is set.
        """
        finished = self._loads.pop_finished()
        for load in finished:
            if not load.task.cancelled():
                await self._finish(load, strict=strict)
        if finished:
            await self._reconcile()

    async def _finish(self, load: Load, *, strict: bool) -> None:
        self._tried[load.source] = load.stamp
        try:
            loaded = load.task.result()
        except ModelLoadError as error:
            self._counts(load.source).inc(LOAD_FAILURES)
            if strict:
                raise StartError(str(error)) from None
            await self._report_failure(load, error)
            return
        await self.serve(loaded)
        self._counts(load.source).inc(LOADS)
        log_ready(loaded, self._config)

    async def _report_failure(self, load: Load, error: ModelLoadError) -> None:
        """Logs a failed load. Requests a rescan if the version's files have changed meanwhile."""
        source = load.source
        self._log.error(
            "model not loaded", model=source.name, version=source.version, error=str(error)
        )
        for note in getattr(error, "__notes__", ()):
            self._log.debug("how it failed", model=source.name, detail=note)
        if await asyncio.to_thread(source.stamp) != load.stamp:
            # The load read a file during a write; the file may be complete by now.
            asyncio.get_running_loop().call_later(_WRITING_SECONDS, self.rescan)

    def _report_stuck(self, source: ModelSource, stuck: bool) -> None:
        """Reports to the front whether a step of the model's newest current version is stuck.

        Stuck steps of other versions, also of unloaded ones, do not affect the model's health.
        """
        current = [each for each in self._current() if each.name == source.name]
        if current[-1:] == [source]:
            notify = self._front.model_gone if stuck else self._front.model_ready
            task = asyncio.create_task(notify(source.name))
            self._notifications.add(task)
            task.add_done_callback(self._notifications.discard)

    async def _unload(self, model: ServedModel) -> None:
        """Unloads an unused version.

        Later lookups do not find the version, and earlier holders open no more sessions on it.
        """
        source = model.source
        del self._tried[source]
        self._catalog.remove(model)
        self._front.detach(model)
        try:
            await model.stop()
        except TimeoutError as error:
            self._log.error("model unloaded, but for a step", error=str(error))
        self._counts(source).inc(UNLOADS)
        self._log.info("model unloaded", model=source.name, version=source.version)

    def _counts(self, source: ModelSource) -> LabelledMetrics:
        return self._resources.metrics.labels(LOADING, source.name, source.version)

    async def _check_device(self) -> None:
        """Falls back to the CPU if the configured device is not available."""
        device = self._config.device
        problem = await asyncio.to_thread(probing.device_problem, device)
        if problem:
            self._log.warning("device not available, the CPU serves", device=device, why=problem)
            config = replace(self._config, device="cpu")
            self._resources = replace(self._resources, config=config)


def _stamps(paths: Sequence[Path]) -> Mapping[ModelSource, Stamp]:
    """Returns the stamp of each source in the repository. Raises `ModelLoadError` as
    `repository.find` does."""
    return {source: source.stamp() for source in repository.find(paths)}
