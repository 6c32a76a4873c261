"""Versions are loaded, retired and unloaded one after another, and leave nothing behind."""

import asyncio
import gc
import shutil
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elman_server.config import ServerConfig
from elman_server.durable.tickets.keyring import Keyring
from elman_server.engine.admission import Admission
from elman_server.engine.jobs.batch import Batch, Outputs
from elman_server.engine.jobs.interrupt import Interrupt
from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.sessions.request import OpenRequest
from elman_server.engine.sessions.session import Session
from elman_server.errors import ModelNotFound, ModelUnavailable, StartError
from elman_server.model.repository import ModelSource
from elman_server.model.selection import Selection
from elman_server.process.clock import Clock
from elman_server.runner.onnx import OnnxRunner
from elman_server.serving.loading.children import Children
from elman_server.serving.loading.loaded import LoadedModel
from elman_server.serving.loading.loader import Loader
from elman_server.serving.model_manager import ModelManager
from elman_server.serving.served import Catalog, Resources, ServedModel
from elman_server.telemetry import table
from elman_server.telemetry.metrics import Metrics
from tests.stepmodels import FOREVER, leaky, save, spinning

SECONDS = 30


@dataclass
class Front:
    """Keeps what it is told."""

    ready: set[str] = field(default_factory=set)
    detached: list[str] = field(default_factory=list)

    async def model_ready(self, name: str) -> None:
        self.ready.add(name)

    async def model_gone(self, name: str) -> None:
        self.ready.remove(name)

    def detach(self, model: ServedModel) -> None:
        self.detached.append(identity(model))


class Served:
    """A model manager with all that it needs, and no network."""

    def __init__(self, root: Path, **settings: Any) -> None:
        config = ServerConfig(
            **{"repository": root, "max_batch_size": 4, "version_grace": 0.0, **settings}
        )
        self.catalog, self.metrics, self.front = Catalog(), Metrics(), Front()
        self.changes = 0
        self.admission = Admission(
            max_sessions=100, max_pending_elements=100, max_context_bytes=100, retry_after=1.0
        )
        self.manager = ModelManager(
            resources=Resources(
                config=config,
                admission=self.admission,
                metrics=self.metrics,
                keyring=Keyring([bytes(32)]),
                clock=Clock(),
            ),
            catalog=self.catalog,
            front=self.front,
            loader=Loader(Children()),
            changed=self.changed,
        )
        self.manager.scan()

    async def changed(self) -> None:
        self.changes += 1

    @property
    def loaded(self) -> list[str]:
        return list(map(identity, self.catalog))

    @property
    def current(self) -> list[str]:
        return list(map(identity, self.catalog.current()))

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not true():
                await asyncio.sleep(0.001)

    async def looked(self, root: Path) -> None:
        """Has it look, and returns when it has done all that follows from what is there."""
        last = f"zz/{len(self.loaded) + self.changes + 1}"
        put(root, last)
        self.manager.rescan()
        await self.until(lambda: last in self.loaded and not self.manager._loads)

    def count(self, row: table.Counter, identity: str) -> int:
        return self.metrics.counters[row].labels(*identity.split("/")).value

    def loads(self, identity: str) -> tuple[int, int]:
        """Successful and failed loads of a version."""
        return self.count(table.LOADS, identity), self.count(table.LOAD_FAILURES, identity)

    def told(self, metric: str) -> list[str]:
        """Identities of those that have a line of that metric."""
        return sorted(
            "{model}/{version}".format(**sample.labels)
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == metric
        )


def identity(model: ServedModel) -> str:
    return f"{model.source.name}/{model.source.version}"


def put(root: Path, *identities: str) -> None:
    for each in identities:
        save(*leaky(), root / each / "model.onnx")


def opened(model: ServedModel) -> Session:
    return model.engine.open(
        OpenRequest(
            number=0,
            outbox=Outbox(limit=float("inf"), notify=lambda: None),
            selection=Selection((), model.file.spec.outputs),
        )
    )


@asynccontextmanager
async def serving(root: Path, **settings: Any) -> AsyncIterator[Served]:
    served = Served(root, **settings)
    await served.manager.load()
    served.manager.start()
    try:
        yield served
    finally:
        await served.manager.stop()
        for model in served.catalog:
            for session in list(model.engine._scheduler.sessions):
                model.engine.abort(session)
            await model.stop()


async def test_a_new_version_is_served_beside_the_others(tmp_path: Path) -> None:
    put(tmp_path, "a/1")
    async with serving(tmp_path) as served:
        put(tmp_path, "a/2")
        served.manager.rescan()
        await served.until(lambda: served.current == ["a/1", "a/2"])
        assert identity(served.catalog.get("a")) == "a/2"
        await served.until(lambda: served.changes == 1)


async def test_a_version_that_went_is_unloaded_and_leaves_nothing_but_what_it_counted(
    tmp_path: Path,
) -> None:
    put(tmp_path, "a/1", "b/1")
    async with serving(tmp_path) as served:
        assert served.told("elman_sessions") == ["a/1", "b/1"]
        assert served.front.ready == {"a", "b"}
        shutil.rmtree(tmp_path / "a")
        served.manager.rescan()
        await served.until(lambda: served.told("elman_sessions") == ["b/1"])
        assert served.loaded == ["b/1"]
        assert served.front.ready == {"b"}
        assert served.front.detached == ["a/1"]
        assert len(served.admission._models) == 1
        assert served.told("elman_sessions_opened_total") == ["a/1", "b/1"]
        await served.until(lambda: served.count(table.UNLOADS, "a/1") == 1)


async def test_an_unloaded_version_is_freed_at_once(tmp_path: Path) -> None:
    """The collector does not look at what was there when the server began to serve."""
    put(tmp_path, "a/1", "b/1")
    async with serving(tmp_path) as served:
        model = served.catalog.get("a")
        freed = weakref.ref(model.engine._step_loop._executor._runner)
        session = opened(model)
        model.engine.push([session], [1], np.ones((1, 1), np.float32), 0.0)
        await served.until(lambda: served.count(table.STEPS, "a/1") == 1)
        model.engine.abort(session)
        del model, session
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            shutil.rmtree(tmp_path / "a")
            served.manager.rescan()
            await served.until(lambda: freed() is None)
        finally:
            gc.enable()
            gc.unfreeze()


class DeafRunner(OnnxRunner):
    """Does not come to the end of a step before it may."""

    may_end = threading.Event()

    def run(self, batch: Batch, interrupt: Interrupt | None = None) -> Outputs:
        assert self.may_end.wait(SECONDS)
        return super().run(batch, interrupt)


async def test_a_retired_version_that_is_stuck_comes_back_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a/1", "b/1")
    monkeypatch.setattr("elman_server.serving.served.OnnxRunner", DeafRunner)
    monkeypatch.setattr("elman_server.engine.executor._INLINE_SECONDS", 0.0)
    DeafRunner.may_end.clear()
    async with serving(tmp_path, step_timeout=0.05, version_grace=3600.0) as served:
        model = served.catalog.get("a")
        session = opened(model)
        shutil.rmtree(tmp_path / "a")
        served.manager.rescan()
        await served.until(lambda: served.front.ready == {"b"})
        model.engine.push([session], [1], np.ones((1, 1), np.float32), 0.0)
        await served.until(lambda: session.ended is not None)
        DeafRunner.may_end.set()
        await served.until(lambda: model.engine.slots == 0)
        assert served.front.ready == {"b"}
        again = opened(model)
        model.engine.push([again], [1], np.ones((1, 1), np.float32), 0.0)
        await served.until(lambda: again.position == 1)


async def test_it_is_not_unloaded_while_it_has_a_session(tmp_path: Path) -> None:
    put(tmp_path, "a/1", "b/1")
    async with serving(tmp_path) as served:
        model = served.catalog.get("a")
        first = opened(model)
        shutil.rmtree(tmp_path / "a")
        await served.looked(tmp_path)
        # Who names it finds it, for as long as it is there.
        assert served.catalog.get("a", "1") is model
        with pytest.raises(
            ModelNotFound, match=r"^model 'a' is no longer served; it finishes with"
        ):
            served.catalog.get("a")
        second = opened(model)
        model.engine.abort(first)
        await served.looked(tmp_path)
        assert "a/1" in served.loaded
        model.engine.abort(second)
        await served.until(lambda: "a/1" not in served.loaded)
        with pytest.raises(ModelNotFound):
            served.catalog.get("a", "1")


async def test_the_grace_begins_anew_with_each_session(tmp_path: Path) -> None:
    grace = 0.3
    put(tmp_path, "a/1", "b/1")
    async with serving(tmp_path, version_grace=grace) as served:
        model = served.catalog.get("a")
        first = opened(model)
        shutil.rmtree(tmp_path / "a")
        served.manager.rescan()
        await served.until(lambda: served.current == ["b/1"])
        loop = asyncio.get_running_loop()
        model.engine.abort(first)
        await asyncio.sleep(grace / 2)  # within the grace another one comes and goes
        model.engine.abort(opened(model))
        ended = loop.time()
        await served.until(lambda: served.loaded == ["b/1"])
        assert loop.time() - ended >= grace


async def test_a_version_that_comes_back_before_it_is_unloaded_was_never_away(
    tmp_path: Path,
) -> None:
    put(tmp_path, "a/1", "b/1")
    async with serving(tmp_path) as served:
        model = served.catalog.get("a")
        session = opened(model)
        (tmp_path / "a").rename(tmp_path.parent / "away")
        await served.looked(tmp_path)
        assert "a/1" not in served.current
        (tmp_path.parent / "away").rename(tmp_path / "a")
        await served.looked(tmp_path)
        assert served.catalog.get("a") is model
        model.engine.abort(session)
        await served.looked(tmp_path)
        assert served.catalog.get("a") is model
        assert served.front.ready == {"a", "b", "zz"}


async def test_an_unloaded_version_that_comes_again_is_loaded_again(tmp_path: Path) -> None:
    put(tmp_path, "a/1", "b/1")
    async with serving(tmp_path) as served:
        for _ in range(3):
            shutil.rmtree(tmp_path / "a")
            served.manager.rescan()
            await served.until(lambda: served.loaded == ["b/1"])
            put(tmp_path, "a/1")
            served.manager.rescan()
            await served.until(lambda: served.current == ["a/1", "b/1"])
        assert served.count(table.LOADS, "a/1") == 4
        assert served.told("elman_sessions") == ["a/1", "b/1"]


async def test_with_one_version_kept_the_next_takes_its_place(tmp_path: Path) -> None:
    put(tmp_path, "a/1", "a/2")
    async with serving(tmp_path, keep_versions=1) as served:
        assert served.loaded == ["a/2"]
        old = opened(served.catalog.get("a"))
        (tmp_path / "a/4").mkdir()
        (tmp_path / "a/4/model.onnx").write_bytes(b"broken")
        await served.looked(tmp_path)
        assert "a/2" in served.current
        put(tmp_path, "a/3")
        await served.looked(tmp_path)
        assert identity(served.catalog.get("a")) == "a/3"
        assert identity(served.catalog.get("a", "2")) == "a/2"
        served.catalog.get("a", "2").engine.abort(old)
        await served.until(lambda: "a/2" not in served.loaded)
        # Back to the one before.
        shutil.rmtree(tmp_path / "a/3")
        served.manager.rescan()
        await served.until(lambda: "a/2" in served.current)
        assert identity(served.catalog.get("a")) == "a/2"


async def test_what_can_not_be_loaded_is_tried_once_for_each_change(tmp_path: Path) -> None:
    put(tmp_path, "a/1")
    broken = tmp_path / "a/2/model.onnx"
    broken.parent.mkdir()
    broken.write_bytes(b"this is no model")
    async with serving(tmp_path) as served:
        assert served.loads("a/2") == (0, 1)
        await served.looked(tmp_path)
        await served.looked(tmp_path)
        assert served.count(table.LOAD_FAILURES, "a/2") == 1
        broken.write_bytes(b"and neither is this")
        await served.looked(tmp_path)
        assert served.count(table.LOAD_FAILURES, "a/2") == 2
        put(tmp_path, "a/2")
        await served.looked(tmp_path)
        assert served.loads("a/2") == (1, 2)
        assert identity(served.catalog.get("a")) == "a/2"


async def test_a_repository_in_which_nothing_is_found_changes_nothing(tmp_path: Path) -> None:
    """It is one that was not mounted, or is not there yet."""
    root = tmp_path / "models"
    put(root, "a/1")
    async with serving(root, reload_interval=0.01) as served:
        root.rename(tmp_path / "away")
        await served.until(lambda: served.manager._scan_error != "")
        root.mkdir()
        await served.until(lambda: "NAME/VERSION" in served.manager._scan_error)
        assert served.current == ["a/1"]
        root.rmdir()
        (tmp_path / "away").rename(root)
        await served.until(lambda: served.manager._scan_error == "")
        assert served.current == ["a/1"]
        assert served.count(table.LOADS, "a/1") == 1


async def test_what_is_there_and_not_loaded_yet_is_not_unknown(tmp_path: Path) -> None:
    put(tmp_path, "a/1", "a/2")
    served = Served(tmp_path)
    for name, version in (("a", ""), ("a", "1"), ("a", "2")):
        with pytest.raises(ModelUnavailable, match=r"not loaded yet$"):
            served.catalog.get(name, version)
    for name, version in (("b", ""), ("a", "3")):
        with pytest.raises(ModelNotFound):
            served.catalog.get(name, version)


async def test_a_stop_breaks_off_what_is_being_loaded_and_begins_nothing(tmp_path: Path) -> None:
    put(tmp_path, "a/1")
    async with serving(tmp_path, load_timeout=10 * SECONDS) as served:
        save(*spinning(FOREVER), tmp_path / "a/2/model.onnx")
        served.manager.rescan()
        await served.until(lambda: bool(served.manager._loads))
        put(tmp_path, "a/3")
        served.manager.rescan()
        async with asyncio.timeout(SECONDS):
            await served.manager.stop()
        assert served.loaded == ["a/1"]


async def test_a_version_that_hangs_keeps_no_other_one_waiting(tmp_path: Path) -> None:
    put(tmp_path, "a/1")
    async with serving(tmp_path, load_timeout=10 * SECONDS) as served:
        save(*spinning(FOREVER), tmp_path / "a/2/model.onnx")
        served.manager.rescan()
        await served.until(lambda: bool(served.manager._loads))
        put(tmp_path, "a/3", "b/1")
        served.manager.rescan()
        await served.until(lambda: served.loaded == ["a/1", "a/3", "b/1"])
        shutil.rmtree(tmp_path / "b")
        served.manager.rescan()
        await served.until(lambda: served.loaded == ["a/1", "a/3"])
        assert identity(served.catalog.get("a")) == "a/3"
        # One that went while it was loading is not waited for.
        shutil.rmtree(tmp_path / "a/2")
        served.manager.rescan()
        await served.until(lambda: not served.manager._loads)


async def test_a_file_that_is_replaced_while_it_loads_is_loaded_anew(tmp_path: Path) -> None:
    put(tmp_path, "a/1")
    async with serving(tmp_path, load_timeout=10 * SECONDS) as served:
        save(*spinning(FOREVER), tmp_path / "a/2/model.onnx")
        served.manager.rescan()
        await served.until(lambda: bool(served.manager._loads))
        put(tmp_path, "a/2")
        served.manager.rescan()
        await served.until(lambda: served.loaded == ["a/1", "a/2"])
        assert served.loads("a/2") == (1, 0)


async def test_a_version_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    put(tmp_path, "a/1")
    save(*spinning(FOREVER), tmp_path / "a/2/model.onnx")
    async with serving(tmp_path, load_timeout=1.0) as served:
        assert served.loaded == ["a/1"]
        assert served.loads("a/2") == (0, 1)


async def test_a_file_that_is_written_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a/1", "a/2")
    whole = (tmp_path / "a/2/model.onnx").read_bytes()
    (tmp_path / "a/2/model.onnx").write_bytes(whole[:-100])
    load = Loader.load

    async def loading(self: Loader, source: ModelSource, config: ServerConfig) -> LoadedModel:
        try:
            return await load(self, source, config)
        finally:
            if source.version == "2":
                (tmp_path / "a/2/model.onnx").write_bytes(whole)

    monkeypatch.setattr(Loader, "load", loading)
    async with serving(tmp_path) as served:
        assert served.loaded == ["a/1"]
        await served.until(lambda: served.loaded == ["a/1", "a/2"])


def test_there_must_be_something_to_serve(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no models"):
        Served(tmp_path)
