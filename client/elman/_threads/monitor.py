"""A lock with wait and wake, for threads.

Resembles `threading.Condition`, with three differences. Hundreds of threads can be woken at once. A
thread waits outside of the lock, so a signal never interrupts the return into the lock. A finaliser
may run in the thread holding the lock, so a finaliser's work is deferred to the next thread
entering.
"""

import threading
from collections import deque
from collections.abc import Callable

_PATIENCE = 2e-3
"""Seconds to let woken threads return first. An interrupted thread never returns."""

Waiters = list[threading.Lock]
"""Threads waiting for an event, by their locks."""


class Monitor:
    """All methods are called with `lock` held, unless their docstring says otherwise."""

    __slots__ = ("_awaiting", "_deferred", "_returning", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        # Number of woken threads still on their way back, and the threads waiting for the last
        # return.
        self._returning = 0
        self._awaiting: Waiters = []
        self._deferred: deque[Callable[[], None]] = deque()

    def enlist(self, waiters: Waiters) -> threading.Lock:
        """Adds a waiter. The caller then calls `wait` on the waiter, then `returned`."""
        waiter = threading.Lock()
        waiter.acquire()
        waiters.append(waiter)
        return waiter

    def returned(self, waiters: Waiters, waiter: threading.Lock) -> None:
        """Removes a waiter after `wait`, woken or not."""
        if waiter in waiters:
            waiters.remove(waiter)
            return
        self._returning = max(0, self._returning - 1)
        if not self._returning and self._awaiting:
            self.wake(self._awaiting)

    def wake(self, waiters: Waiters) -> None:
        """Wakes all waiters."""
        self._returning += len(waiters)
        while waiters:
            waiters.pop().release()

    def settle(self) -> None:
        """Runs the deferred actions."""
        while self._deferred:
            self._deferred.popleft()()

    def defer(self, action: Callable[[], None]) -> None:
        """Runs an action under the lock: now, or when the next thread enters if the lock is taken.

        Called without the lock, except by a finaliser.
        """
        self._deferred.append(action)
        self.catch_up()

    def catch_up(self) -> None:
        """Runs actions deferred while the caller held the lock. Called without the lock.

        The actions would otherwise wait for the next thread to enter, perhaps for long.
        """
        while self._deferred and self.lock.acquire(blocking=False):
            try:
                self.settle()
            finally:
                self.lock.release()

    def let_others_return(self) -> None:
        """Waits once, briefly, until the woken threads are back. Called without the lock."""
        with self.lock:
            if not self._returning:
                return
            waiter = self.enlist(self._awaiting)
        wait(waiter, _PATIENCE)
        with self.lock:
            if waiter in self._awaiting:
                self._returning = 0
            self.returned(self._awaiting, waiter)


def wait(waiter: threading.Lock, seconds: float | None) -> None:
    """Waits, without the lock, to be woken, for at most `seconds`."""
    waiter.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))
