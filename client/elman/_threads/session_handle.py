"""A session as threads use it: operations run under a lock, with waits outside of the lock."""

from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from elman._core.session.deadline import Deadline
from elman._core.session.operation import Operation
from elman._core.session.session import Session
from elman._process.home import Home
from elman._threads.monitor import Monitor, Waiters, wait

T = TypeVar("T")


class Guard:
    """Context manager around a change to state shared by all sessions of a model.

    A Ctrl-C may leave the change half done; `interrupted` is called then.
    """

    __slots__ = ("_interrupted",)

    def __init__(self, interrupted: Callable[[], None]) -> None:
        self._interrupted = interrupted

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self._interrupted()


class SessionHandle:
    """A session, and the locks of the threads waiting for a change of the session."""

    __slots__ = ("_guard", "_home", "_waiters", "monitor", "session")

    def __init__(
        self,
        home: Home,
        monitor: Monitor,
        guard: Guard,
        open: Callable[[Callable[[], None]], Session],
    ) -> None:
        """`open` creates the session, given the session's `wake`."""
        self._home = home
        self.monitor = monitor
        self._guard = guard
        self._waiters: Waiters = []
        self.session = open(self._wake)

    def run(self, operation: Operation[T], deadline: Deadline) -> T:
        """Runs an operation to its end and waits where needed. Raises `DeadlineExceeded`."""
        self._home.check()
        monitor, waiters = self.monitor, self._waiters
        waiter = None
        try:
            while True:
                with monitor.lock:
                    monitor.settle()
                    if waiter is not None:
                        monitor.returned(waiters, waiter)
                        waiter = None
                    with self._guard:
                        owed = next(operation)
                    seconds = deadline.remaining(owed)
                    waiter = monitor.enlist(waiters)
                wait(waiter, seconds)
        except StopIteration as result:
            return result.value  # type: ignore[no-any-return]
        finally:
            with monitor.lock:
                if waiter is not None:
                    monitor.returned(waiters, waiter)
                operation.close()
            monitor.catch_up()

    def close(self) -> None:
        if not self._home.forked:
            with self.monitor.lock, self._guard:
                self.session.close()

    def drop(self) -> bool:
        """Closes the session from a finaliser, which may run anywhere.

        Returns False if the session belongs to another process.
        """
        if self._home.forked:
            return False
        self.monitor.defer(self.session.close)
        return True

    def _wake(self) -> None:
        if self._waiters:
            self.monitor.wake(self._waiters)
