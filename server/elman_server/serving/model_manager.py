"""Model manager: keeps the served versions in line with the repository.

Versions load in parallel, so a slow or hanging load delays no other load. A single task starts
loads, collects their results, retires versions and unloads them, in sequence, while sessions go on.
`versions.py` decides which versions to load and serve. The front accepts sessions; this module
knows only its `Front` port.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from elman_server.config import ServerConfig
from elman_server.durable.tickets.keyring import Keyring
from elman_server.engine.admission import Admission
from elman_server.errors import ModelLoadError, StartError
from elman_server.model import repository
from elman_server.model.repository import BUNDLED, ModelSource, Stamp
from elman_server.process import memory
from elman_server.serving.loading import probing
from elman_server.serving.loading.loaded import LoadedModel
from elman_server.serving.loading.loader import Loader
from elman_server.serving.loading.report import tell_ready
from elman_server.serving.served import Catalog, ServedModel
from elman_server.serving.versions import Comparison, compare
from elman_server.telemetry.metrics import LabelledMetrics, Metrics
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """A load in progress."""

    task: asyncio.Task[LoadedModel]
    stamp: Stamp
    """Stamp of the version's files before the load."""


class ModelManager:
    """Loads, retires and unloads versions as the repository changes."""

    def __init__(
        self,
        *,
        config: ServerConfig,
        catalog: Catalog,
        admission: Admission,
        metrics: Metrics,
        keyring: Keyring,
        front: Front,
        loader: Loader,
        changed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Scans the repository. Raises `StartError` if there is nothing to serve.

        `changed` is called whenever the set of served versions has changed.
        """
        self._config = config
        self._catalog = catalog
        self._admission = admission
        self._metrics = metrics
        self._keyring = keyring
        self._front = front
        self._changed = changed
        self._log = structlog.get_logger("elman.server")
        paths = [config.repository] if config.repository else []
        self._paths = [*paths, *([BUNDLED] if config.demo else [])]
        try:
            self._found = _stamped(self._paths)
        except ModelLoadError as error:
            raise StartError(str(error)) from None
        self._tried: dict[ModelSource, Stamp] = {}
        self._loader = loader
        self._loads: dict[ModelSource, _Load] = {}
        self._checks: set[asyncio.Task[None]] = set()
        self._trouble = ""
        self._retiring: dict[ModelSource, asyncio.Task[None]] = {}
        self._over: list[ServedModel] = []
        self._telling: set[asyncio.Task[None]] = set()
        self._asked = False
        self._stopping = False
        self._wake = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        catalog.settle(current=(), expected=self._compare().load)

    async def load(self) -> None:
        """Loads the versions present at the start.

        Raises `StartError` if a load fails and the server is strict, or if no model was loaded.
        """
        await self._settle_device()
        await self._settle()
        while self._loads and not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            await self._take_in(strict=self._config.strict)
            if self._asked:
                self._asked = False
                await self._rescan()
        if not list(self._catalog) and not self._admission.closed:
            raise StartError("no model could be loaded")

    def start(self) -> None:
        """Starts rescans: on request, and at intervals if `reload_interval` is set."""
        self._following = asyncio.create_task(self._follow())

    def rescan(self) -> None:
        """Requests a rescan of the repository as soon as possible. Idempotent."""
        self._asked = True
        self._wake.set()

    async def stop(self) -> None:
        """Cancels loads, retirements and checks, and ends the manager's task."""
        self._stopping = True
        self._wake.set()
        retiring, self._retiring = self._retiring, {}
        tasks = [*retiring.values(), *self._checks, *(load.task for load in self._loads.values())]
        for task in tasks:
            task.cancel()
        self._loader.close()
        if self._following is not None:
            await self._following

    async def _follow(self) -> None:
        while not self._stopping:
            try:
                async with asyncio.timeout(self._config.reload_interval or None):
                    await self._wake.wait()
            except TimeoutError:
                self._asked = True
            self._wake.clear()
            try:
                await self._turn()
            except Exception:  # no bug in loading or unloading may end sessions
                self._log.exception("bug while versions were loaded or unloaded")

    async def _turn(self) -> None:
        before = self._current()
        await self._take_in()
        unloaded = False
        while self._over and not self._stopping:
            unloaded |= await self._unload(self._over.pop())
        if unloaded:
            await asyncio.to_thread(memory.give_back)
        if self._asked and not self._stopping:
            self._asked = False
            await self._rescan()
        if self._changed is not None and self._current() != before:
            await self._changed()

    async def _rescan(self) -> None:
        try:
            self._found = await asyncio.to_thread(_stamped, self._paths)
        except ModelLoadError as error:
            # A folder that is suddenly empty is probably not mounted.
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._log.error("repository can't be used, nothing changes", error=str(error))
            return
        self._trouble = ""
        await self._settle()

    def _current(self) -> list[ModelSource]:
        return [model.source for model in self._catalog.current()]

    async def _settle(self) -> None:
        """Acts on the last scan: retires versions, starts loads and checks changed files."""
        loaded = {model.source for model in self._catalog}
        kept = loaded | self._found.keys()
        self._tried = {source: stamp for source, stamp in self._tried.items() if source in kept}
        compared = self._compare()
        await self._settle_current(compared)
        if self._stopping or self._admission.closed:
            return
        for source, load in self._loads.items():
            # The version's files have changed since the load began: load again.
            if self._found.get(source) != load.stamp:
                load.task.cancel()
        for source in compared.load:
            if source not in self._loads:
                self._begin(source)
        for source in compared.replaced:
            self._check(source)

    def _compare(self) -> Comparison:
        return compare(
            self._found,
            loaded={model.source for model in self._catalog},
            tried=self._tried,
            keep=self._config.keep_versions,
        )

    async def _settle_current(self, compared: Comparison) -> None:
        before = {model.source.name for model in self._catalog.current()}
        self._catalog.settle(current=compared.current, expected=compared.load)
        for model in self._catalog:
            source = model.source
            if source in compared.current:
                self._restore(source)
            elif source not in self._retiring:
                self._log.info(
                    "model retires",
                    model=source.name,
                    version=source.version,
                    sessions=model.engine.sessions,
                    why="newer versions serve" if source in self._found else "its files are gone",
                )
                self._retire(model)
        for name in before - {source.name for source in compared.current}:
            await self._front.model_gone(name)
        for name in {source.name for source in compared.current} - before:
            await self._front.model_ready(name)

    def _begin(self, source: ModelSource) -> None:
        """Starts to load a version, in parallel to other loads."""
        self._counts(source)
        task = asyncio.create_task(self._loader.load(source, self._config))
        task.add_done_callback(lambda _: self._wake.set())
        self._loads[source] = _Load(task=task, stamp=self._found[source])

    async def _take_in(self, *, strict: bool = False) -> None:
        """Collects finished loads: serves the loaded versions, then settles again.

        Raises `StartError` if a load failed and `strict` is set.
        """
        done = {source: load for source, load in self._loads.items() if load.task.done()}
        for source, load in done.items():
            del self._loads[source]
            if not load.task.cancelled():
                await self._served(source, load, strict=strict)
        if done:
            await self._settle()

    async def _served(self, source: ModelSource, load: "_Load", *, strict: bool) -> None:
        self._tried[source] = load.stamp
        counts = self._counts(source)
        try:
            loaded = load.task.result()
        except ModelLoadError as error:
            counts.inc(LOAD_FAILURES)
            if strict:
                raise StartError(str(error)) from None
            self._log.error(
                "model not loaded", model=source.name, version=source.version, error=str(error)
            )
            for note in getattr(error, "__notes__", ()):
                self._log.debug("how it failed", model=source.name, detail=note)
            if await asyncio.to_thread(source.stamp) != load.stamp:
                # The load read a file during a write; the file may be complete by now.
                asyncio.get_running_loop().call_later(_WRITING_SECONDS, self.rescan)
            return
        served = ServedModel.serve(
            loaded,
            self._config,
            self._admission,
            self._metrics,
            self._keyring,
            stuck=partial(self._stuck, source),
        )
        self._catalog.add(served)
        counts.inc(LOADS)
        await self._front.model_ready(source.name)
        tell_ready(loaded, self._config)

    def _stuck(self, source: ModelSource, stuck: bool) -> None:
        """Reports to the front whether a step of the model's newest current version is stuck.

        Stuck steps of other versions, also of unloaded ones, do not affect the model's health.
        """
        current = [each for each in self._current() if each.name == source.name]
        if current[-1:] == [source]:
            told = self._front.model_gone if stuck else self._front.model_ready
            task = asyncio.create_task(told(source.name))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    def _retire(self, model: ServedModel) -> None:
        # Pin sessions in the engine: a parked session could return after the version is unloaded.
        model.engine.pinned = True
        self._retiring[model.source] = asyncio.create_task(self._outlive(model))

    def _restore(self, source: ModelSource) -> None:
        task = self._retiring.pop(source, None)
        if task is not None:
            task.cancel()
            for model in self._catalog:
                if model.source == source:
                    model.engine.pinned = False
            self._log.info("model is served again", model=source.name, version=source.version)

    async def _outlive(self, model: ServedModel) -> None:
        """Waits until a version had no session for `version_grace`, then queues its unload.

        Within `version_grace` seconds a session may still return.
        """
        opened = -1
        while opened != model.engine.opened or model.engine.sessions:
            await model.engine.idle()
            opened = model.engine.opened
            await asyncio.sleep(self._config.version_grace)
        self._over.append(model)
        self._wake.set()

    async def _unload(self, model: ServedModel) -> bool:
        """Unloads a version. Returns False if it was restored or has a session again.

        Later lookups do not find the version, and earlier holders open no more sessions on it.
        """
        source = model.source
        retiring = self._retiring.get(source)
        if retiring is None or not retiring.done():
            return False
        if model.engine.sessions:
            self._retire(model)
            return False
        del self._retiring[source], self._tried[source]
        self._catalog.remove(model)
        self._front.detach(model)
        try:
            await model.stop()
        except TimeoutError as error:
            self._log.error("model unloaded, but for a step", error=str(error))
        self._counts(source).inc(UNLOADS)
        self._log.info("model unloaded", model=source.name, version=source.version)
        return True

    def _counts(self, source: ModelSource) -> LabelledMetrics:
        return self._metrics.labels(LOADING, source.name, source.version)

    def _check(self, source: ModelSource) -> None:
        """Starts a check whether a version's changed files hold a different network.

        Runs once for each change of the files. A loaded version never changes its network.
        """
        self._tried[source] = self._found[source]
        check = asyncio.create_task(self._warn_of_replaced(source))
        self._checks.add(check)
        check.add_done_callback(self._checks.discard)

    async def _warn_of_replaced(self, source: ModelSource) -> None:
        loaded = self._catalog.get(source.name, source.version).file.fingerprint
        try:
            found = (await self._loader.read(source, self._config)).fingerprint
        except ModelLoadError:  # not a step model, or not completely written yet
            found = ""
        if found != loaded:
            self._log.warning(
                "model file replaced, the loaded one is served on; a new version needs a new "
                "number",
                model=source.name,
                version=source.version,
                loaded=loaded[:12],
                found=found[:12],
            )

    async def _settle_device(self) -> None:
        """Falls back to the CPU if the configured device is not available."""
        device = self._config.device
        trouble = await asyncio.to_thread(probing.trouble, device)
        if trouble:
            self._log.warning("device not available, the CPU serves", device=device, why=trouble)
            self._config = replace(self._config, device="cpu")


def _stamped(paths: Sequence[Path]) -> Mapping[ModelSource, Stamp]:
    """Returns the stamp of each source in the repository. Raises `ModelLoadError` as
    `repository.find` does."""
    return {source: source.stamp() for source in repository.find(paths)}
