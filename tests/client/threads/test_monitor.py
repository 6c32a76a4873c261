"""Threads that wait for one another."""

import threading
from collections.abc import Callable

import pytest

from elman._threads.monitor import Monitor, Waiters, wait


def waiting(monitor: Monitor, waiters: Waiters, then: Callable[[], None]) -> threading.Thread:
    """A thread that waits for an event and then does something under the lock."""

    def run() -> None:
        with monitor.lock:
            waiter = monitor.enlist(waiters)
        wait(waiter, None)
        with monitor.lock:
            monitor.returned(waiters, waiter)
            then()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_all_who_wait_are_woken_at_once() -> None:
    monitor = Monitor()
    waiters: Waiters = []
    woken: list[int] = []
    threads = [waiting(monitor, waiters, lambda: woken.append(1)) for _ in range(5)]
    count = 0
    while count < 5:
        with monitor.lock:
            count += len(waiters)
            monitor.wake(waiters)
    for thread in threads:
        thread.join()
    assert len(woken) == 5


def test_a_wait_ends_with_its_time() -> None:
    monitor = Monitor()
    waiters: Waiters = []
    with monitor.lock:
        waiter = monitor.enlist(waiters)
    wait(waiter, 0.01)
    with monitor.lock:
        monitor.returned(waiters, waiter)
    assert not waiters
    monitor.let_others_return()


def test_one_lets_the_others_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elman._threads.monitor._PATIENCE", 60)
    monitor = Monitor()
    waiters: Waiters = []
    order: list[str] = []
    thread = waiting(monitor, waiters, lambda: order.append("woken"))
    while True:
        with monitor.lock:
            if waiters:
                monitor.wake(waiters)
                break
    monitor.let_others_return()
    order.append("last")
    thread.join()
    assert order == ["woken", "last"]


def test_who_does_not_come_back_is_not_waited_for() -> None:
    monitor = Monitor()
    waiters: Waiters = []
    with monitor.lock:
        interrupted = monitor.enlist(waiters)
        monitor.wake(waiters)
    monitor.let_others_return()
    monitor.let_others_return()
    with monitor.lock:
        monitor.returned(waiters, interrupted)


def test_what_comes_up_while_the_lock_is_taken_is_done_by_whoever_enters_next() -> None:
    monitor = Monitor()
    done: list[str] = []
    with monitor.lock:
        monitor.defer(lambda: done.append("deferred"))
        assert not done
    with monitor.lock:
        monitor.settle()
    monitor.defer(lambda: done.append("at once"))
    assert done == ["deferred", "at once"]
