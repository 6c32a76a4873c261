"""Who waits for a store waits for those before it as long as they get on, and no longer."""

import asyncio
import time

import pytest

from elman_server.durable.store.interface import StoreUnavailable
from elman_server.durable.store.turns import Turns


async def test_those_that_wait_are_not_late_by_it() -> None:
    turns = Turns(at_once=2, timeout=1)
    working = most = 0

    async def work() -> None:
        nonlocal working, most
        working += 1
        most = max(most, working)
        await asyncio.sleep(0.06)
        working -= 1

    await asyncio.gather(*(turns.take(work) for _ in range(40)))  # 1.2 s, all of them
    assert most == 2


async def test_one_that_takes_too_long_fails_with_those_behind_it() -> None:
    turns = Turns(at_once=1, timeout=0.1)
    begun = 0

    async def hang() -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    found = await asyncio.gather(*(turns.take(hang) for _ in range(50)), return_exceptions=True)
    assert all(isinstance(each, StoreUnavailable) for each in found)
    assert begun == 1


async def test_one_that_comes_after_a_failure_is_tried() -> None:
    turns = Turns(at_once=1, timeout=0.1)

    async def fail() -> None:
        raise StoreUnavailable("down")

    async def succeed() -> str:
        return "up"

    with pytest.raises(StoreUnavailable, match="down"):
        await turns.take(fail)
    assert await turns.take(succeed) == "up"


async def test_a_bug_is_passed_on_and_fails_nobody_else() -> None:
    turns = Turns(at_once=1, timeout=0.1)

    async def stumble() -> None:
        await asyncio.sleep(0)
        raise KeyError("bug")

    async def succeed() -> str:
        return "up"

    one, two = await asyncio.gather(
        turns.take(stumble), turns.take(succeed), return_exceptions=True
    )
    assert isinstance(one, KeyError)
    assert two == "up"


async def test_one_that_is_cancelled_makes_room() -> None:
    turns = Turns(at_once=1, timeout=10)
    task = asyncio.create_task(turns.take(asyncio.Event().wait))
    await asyncio.sleep(0)
    task.cancel()

    async def succeed() -> str:
        return "up"

    assert await turns.take(succeed) == "up"


async def test_time_in_which_the_process_stands_still_is_not_the_stores() -> None:
    turns = Turns(at_once=1, timeout=0.2)

    async def stand_still() -> str:
        asyncio.get_running_loop().call_soon(time.sleep, 0.5)
        await asyncio.sleep(0.1)
        return "answered"

    assert await turns.take(stand_still) == "answered"
