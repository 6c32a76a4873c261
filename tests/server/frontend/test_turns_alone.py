"""Long work of whatever many goes on slice by slice, and short work is not kept waiting."""

import asyncio

import pytest

from elman_server.frontend.turns import Turns


async def test_there_is_one_turn_in_each_iteration_of_the_loop() -> None:
    turns, given = Turns(), [0]

    async def work() -> None:
        for _ in range(5):
            await turns.next()
            given[-1] += 1

    tasks = [asyncio.create_task(work()) for _ in range(4)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        given.append(0)
    assert max(given) == 1
    assert sum(given) == 20


async def test_turns_go_round() -> None:
    turns, order = Turns(), list[str]()

    async def work(name: str) -> None:
        for _ in range(3):
            await turns.next()
            order.append(name)

    await asyncio.gather(work("a"), work("b"), work("c"))
    assert order == ["a", "b", "c"] * 3


async def test_one_that_is_cancelled_takes_no_turn() -> None:
    turns, order = Turns(), list[str]()

    async def work(name: str) -> None:
        await turns.next()
        order.append(name)

    tasks = [asyncio.create_task(work(name)) for name in "abc"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["a", "c"]


async def test_others_run_between_the_slices_of_long_work() -> None:
    turns, between = Turns(), [0]

    async def count() -> None:
        while True:
            await asyncio.sleep(0)
            between[0] += 1

    other = asyncio.create_task(count())
    items = [item async for item in turns.over(range(200_000))]
    other.cancel()
    assert items == list(range(200_000))
    assert between[0] > 10


async def test_what_is_to_be_finished_is_though_who_waits_is_cancelled() -> None:
    turns, done = Turns(), list[int]()

    async def work() -> None:
        for number in range(3):
            await turns.next()
            done.append(number)

    waiting = asyncio.create_task(turns.finish(work()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await turns.finished()
    assert done == [0, 1, 2]
