"""Loads in progress. Versions load in parallel, so a slow or hanging load delays no other load."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass

from elman_server.model.repository import ModelSource, Stamp
from elman_server.serving.loading.loaded import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Load of a version, in progress or finished."""

    source: ModelSource
    stamp: Stamp
    """Stamp of the version's files before the load."""
    task: asyncio.Task[LoadedModel]


class Loads:
    """Loads which are in progress, or finished and not yet popped."""

    def __init__(self, *, finished: Callable[[], None]) -> None:
        """`finished` is called at the end of each load."""
        self._notify = finished
        self._loads: dict[ModelSource, Load] = {}

    def __contains__(self, source: ModelSource) -> bool:
        return source in self._loads

    def __len__(self) -> int:
        return len(self._loads)

    def start(
        self, source: ModelSource, stamp: Stamp, work: Coroutine[None, None, LoadedModel]
    ) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._notify())
        self._loads[source] = Load(source=source, stamp=stamp, task=task)

    def pop_finished(self) -> list[Load]:
        """Removes and returns the finished loads, cancelled loads included."""
        finished = [load for load in self._loads.values() if load.task.done()]
        for load in finished:
            del self._loads[load.source]
        return finished

    def cancel_outdated(self, stamps: Mapping[ModelSource, Stamp]) -> None:
        """Cancels the loads of versions whose files are gone, or have changed since."""
        for source, load in self._loads.items():
            if stamps.get(source) != load.stamp:
                load.task.cancel()

    def cancel(self) -> None:
        """Cancels all loads."""
        for load in self._loads.values():
            load.task.cancel()
