"""Retirements: withdrawn versions which wait for the end of their last sessions."""

import asyncio
from collections.abc import Callable

from elman_server.model.repository import ModelSource
from elman_server.serving.served import ServedModel


class Retirements:
    """Retiring versions, each with a task that waits until the version is unused.

    A version is unused when it had no session for `grace` seconds. Until then, a parked or
    handed-over session may still return.
    """

    def __init__(self, *, grace: float, unused: Callable[[], None]) -> None:
        """`unused` is called whenever a version has become unused."""
        self._grace = grace
        self._notify = unused
        self._waits: dict[ModelSource, asyncio.Task[None]] = {}
        self._unused: list[ServedModel] = []

    def __contains__(self, source: ModelSource) -> bool:
        return source in self._waits

    def retire(self, model: ServedModel) -> None:
        # Pin sessions in the engine: a parked session could return after the version is unloaded.
        model.engine.pinned = True
        self._waits[model.source] = asyncio.create_task(self._wait(model))

    def restore(self, model: ServedModel) -> bool:
        """Ends the retirement of a version. Returns whether the version was retiring."""
        wait = self._waits.pop(model.source, None)
        if wait is None:
            return False
        wait.cancel()
        model.engine.pinned = False
        return True

    def pop_unused(self) -> ServedModel | None:
        """Removes and returns an unused version, or None. Versions that were restored, or have a
        session again, do not count."""
        while self._unused:
            model = self._unused.pop()
            wait = self._waits.get(model.source)
            if wait is None or not wait.done():
                continue
            if model.engine.sessions:
                self.retire(model)
                continue
            del self._waits[model.source]
            return model
        return None

    def cancel(self) -> None:
        """Cancels all retirements."""
        waits, self._waits = self._waits, {}
        for wait in waits.values():
            wait.cancel()

    async def _wait(self, model: ServedModel) -> None:
        opened = -1
        while opened != model.engine.opened or model.engine.sessions:
            await model.engine.idle()
            opened = model.engine.opened
            await asyncio.sleep(self._grace)
        self._unused.append(model)
        self._notify()
