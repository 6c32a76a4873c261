"""Threads that wait for one another."""

import threading
from collections.abc import Callable

import pytest

from elman._monitor import Monitor


def test_who_is_woken_enters_after_the_waker_left() -> None:
    monitor = Monitor()
    waiters: list[threading.Lock] = []
    order: list[str] = []

    def wait() -> None:
        with monitor:
            monitor.wait(waiters)
            order.append("woken")

    threads = [threading.Thread(target=wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    woken = 0
    while woken < 5:
        with monitor:
            woken += len(waiters)
            monitor.wake(waiters)
    for thread in threads:
        thread.join()
    assert order == ["woken"] * 5


def test_a_wait_ends_with_its_time() -> None:
    monitor = Monitor()
    waiters: list[threading.Lock] = []
    with monitor:
        monitor.wait(waiters, 0.01)
        assert not waiters
        monitor.let_others_return()


def test_one_lets_the_others_come_first() -> None:
    monitor = Monitor()
    waiters: list[threading.Lock] = []
    order: list[str] = []

    def wait() -> None:
        with monitor:
            monitor.wait(waiters)
            order.append("woken")

    thread = threading.Thread(target=wait)
    thread.start()
    while not order:
        with monitor:
            if waiters:
                monitor.wake(waiters)
                monitor.let_others_return()
                order.append("last")
    thread.join()
    assert order == ["woken", "last"]


def test_an_error_inside_leaves_it() -> None:
    monitor = Monitor()
    with pytest.raises(ZeroDivisionError), monitor:
        raise ZeroDivisionError
    with monitor:
        pass


class Followed:
    """A lock; as soon as it is free for the first time, `next` is called."""

    def __init__(self, next: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._next: Callable[[], None] | None = next

    def acquire(self) -> bool:
        return self._lock.acquire()

    def release(self) -> None:
        self._lock.release()
        if self._next is not None:
            follow, self._next = self._next, None
            follow()


def test_who_leaves_lets_nobody_go_that_another_woke_meanwhile() -> None:
    monitor = Monitor()
    waiter = threading.Lock()
    waiter.acquire()

    def wake() -> None:
        with monitor:
            monitor.wake([waiter])

    monitor._lock = Followed(wake)  # type: ignore[assignment]
    with monitor:
        pass
    assert not waiter.locked()
