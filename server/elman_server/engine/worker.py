"""The compute thread of one model: takes jobs in order, returns results to the event loop."""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue

from elman_server.engine.jobs.job import Job, Result

_STOP_SECONDS = 1.0
"""Seconds of waiting for the thread in `stop`: a step may never end."""


class Worker:
    """Calls `run` on its own thread, and `done` with the result on the event loop of `start`."""

    def __init__(
        self,
        *,
        name: str,
        run: Callable[[Job], list[Result]],
        done: Callable[[list[Result]], None],
    ) -> None:
        self._run = run
        self._done = done
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._thread.start()

    def submit(self, job: Job) -> None:
        self._queue.put(job)

    async def stop(self) -> None:
        """Waits for the running step and ends the thread. Raises `TimeoutError` and leaves the
        thread behind if the step does not end."""
        self._queue.put(None)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._over.wait()
        except TimeoutError:
            raise TimeoutError(f"{self._thread.name} does not come back from the model") from None
        self._thread.join()
        # `run` and `done` refer to the worker's owner: without the cycle both are freed at once.
        del self._run, self._done

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            self._loop.call_soon_threadsafe(self._done, self._run(job))
        self._loop.call_soon_threadsafe(self._over.set)
