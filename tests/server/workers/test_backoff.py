"""A worker that dies is there again at once; one that keeps dying is left in peace for a while."""

from itertools import repeat

from elman_server.workers.backoff import Backoff


def test_the_first_time_it_starts_again_at_once() -> None:
    assert Backoff().delay(served=5) == 0


def test_the_wait_doubles_while_it_dies_soon() -> None:
    backoff = Backoff()
    delays = [backoff.delay(served) for served in repeat(1.0, 10)]
    assert delays == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_one_that_served_for_a_minute_is_trusted_again() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.delay(served=0)
    assert [backoff.delay(served=60), backoff.delay(served=59)] == [0, 0.5]
