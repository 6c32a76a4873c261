"""A session as tasks use it: operations run on the event loop, with a future for each wait."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from elman._core.session.deadline import Deadline
from elman._core.session.operation import Operation
from elman._core.session.session import Session
from elman._process.home import Home
from elman.aio._alarm import Alarm

T = TypeVar("T")


class SessionHandle:
    """A session, and the futures of the tasks waiting for a change of the session."""

    __slots__ = ("_alarm", "_home", "_loop", "_waiters", "session")

    def __init__(
        self, home: Home, alarm: Alarm, open: Callable[[Callable[[], None]], Session]
    ) -> None:
        """`open` creates the session, given the session's `wake`."""
        self._home = home
        self._loop = asyncio.get_running_loop()
        self._alarm = alarm
        self._waiters: list[asyncio.Future[None]] = []
        self.session = open(self._wake)

    async def run(self, operation: Operation[T], deadline: Deadline) -> T:
        """Runs an operation to its end and waits where needed. Raises `DeadlineExceeded`."""
        self._home.check()
        try:
            while True:
                owed = next(operation)
                waiter = self._alarm.waiter(deadline.at(owed))
                self._waiters.append(waiter)
                try:
                    await waiter
                finally:
                    self._alarm.forget(waiter)
                    if waiter in self._waiters:
                        self._waiters.remove(waiter)
        except StopIteration as result:
            return result.value  # type: ignore[no-any-return]
        finally:
            operation.close()

    def close(self) -> None:
        if not self._home.forked:
            self._home.check()
            self.session.close()

    def drop(self) -> bool:
        """Closes the session from a finaliser, which may run anywhere, in any thread.

        Returns False if the session belongs to another process, or if its loop is closed.
        """
        if self._home.forked or self._loop.is_closed():
            return False
        self._loop.call_soon_threadsafe(self.session.close)
        return True

    def _wake(self) -> None:
        if self._waiters:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()
