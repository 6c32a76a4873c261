"""A lock under which threads wait for one another.

As `threading.Condition`, but made for hundreds of threads that are woken at once: they are let go
after the lock is free, so that none wakes only to wait for that; and a thread can let them all come
first.
"""

import threading
from types import TracebackType


class Monitor:
    """Entered with `with`; its methods are for inside. A list of waiters stands for an event."""

    __slots__ = ("_awaiting", "_lock", "_returning", "_woken")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._woken: list[threading.Lock] = []
        # How many threads were woken and have not entered again; who waits for the last of them.
        self._returning = 0
        self._awaiting: list[threading.Lock] = []

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        # Another list for whoever comes next, who may be there before the loop ends.
        woken, self._woken = self._woken, []
        self._lock.release()
        for waiter in woken:
            waiter.release()

    def wait(self, waiters: list[threading.Lock], seconds: float | None = None) -> None:
        """Leaves, and enters again after a `wake` of `waiters`, or after `seconds`."""
        waiter = threading.Lock()
        waiter.acquire()
        waiters.append(waiter)
        self.__exit__()
        try:
            waiter.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))
        finally:
            self._lock.acquire()
            if waiter in waiters:
                waiters.remove(waiter)
            else:
                self._returning -= 1
                if not self._returning and self._awaiting:
                    self.wake(self._awaiting)

    def wake(self, waiters: list[threading.Lock]) -> None:
        """Lets all of them go once this thread has left."""
        self._returning += len(waiters)
        self._woken += waiters
        waiters.clear()

    def let_others_return(self) -> None:
        """Waits, once, until the threads that were woken have entered again."""
        if self._returning:
            self.wait(self._awaiting)
