"""A lock under which threads wait for one another.

As `threading.Condition`, but made for hundreds of threads that are woken at once, and for signals
and finalisers that come anywhere: who waits does so outside of the lock, so that no thread is
interrupted on its way back in; and what a finaliser has to do under the lock, which its own thread
may hold, is done by whoever enters next.
"""

import threading
from collections import deque
from collections.abc import Callable

_PATIENCE = 2e-3
"""Seconds that a thread lets others come first: one that was interrupted does not come."""

Waiters = list[threading.Lock]
"""Who waits for an event."""


class Monitor:
    """`lock` is to be held for everything but what says otherwise."""

    __slots__ = ("_awaiting", "_deferred", "_returning", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        # How many threads were woken and are not back; who waits for the last of them.
        self._returning = 0
        self._awaiting: Waiters = []
        self._deferred: deque[Callable[[], None]] = deque()

    def enlist(self, waiters: Waiters) -> threading.Lock:
        """Joins those who wait. `rest` on the result comes next, then `returned`."""
        waiter = threading.Lock()
        waiter.acquire()
        waiters.append(waiter)
        return waiter

    def returned(self, waiters: Waiters, waiter: threading.Lock) -> None:
        """Is back, woken or not."""
        if waiter in waiters:
            waiters.remove(waiter)
            return
        self._returning = max(0, self._returning - 1)
        if not self._returning and self._awaiting:
            self.wake(self._awaiting)

    def wake(self, waiters: Waiters) -> None:
        """Lets all of them go."""
        self._returning += len(waiters)
        while waiters:
            waiters.pop().release()

    def settle(self) -> None:
        """Does what was deferred."""
        while self._deferred:
            self._deferred.popleft()()

    def defer(self, action: Callable[[], None]) -> None:
        """Has something done under the lock: now, or, if that is taken, by whoever enters next.
        Not to be called under the lock on purpose; a finaliser may."""
        self._deferred.append(action)
        self.catch_up()

    def catch_up(self) -> None:
        """Does what was deferred while its caller had the lock, which may have been the last to
        enter for long. Called without the lock."""
        while self._deferred and self.lock.acquire(blocking=False):
            try:
                self.settle()
            finally:
                self.lock.release()

    def let_others_return(self) -> None:
        """Waits, once and not for long, until the threads that were woken are back. Called without
        the lock."""
        with self.lock:
            if not self._returning:
                return
            waiter = self.enlist(self._awaiting)
        rest(waiter, _PATIENCE)
        with self.lock:
            if waiter in self._awaiting:
                self._returning = 0
            self.returned(self._awaiting, waiter)


def rest(waiter: threading.Lock, seconds: float | None) -> None:
    """Waits, without the lock, to be woken, or for so many seconds."""
    waiter.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))
