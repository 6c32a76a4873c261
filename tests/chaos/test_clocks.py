"""Replicas that do not agree what time it is."""

import asyncio
from random import Random

import pytest

import elman
from elman import aio
from tests.chaos.clocks import skewed
from tests.chaos.fleet import Fleet
from tests.chaos.load import Load

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.mark.timeout(300)
@pytest.mark.parametrize("skew", [DAY, pytest.param(-DAY, marks=pytest.mark.slow)])
async def test_clocks_that_differ_by_less_than_a_tickets_life_lose_nothing(skew: float) -> None:
    with Fleet(2, "--demo", envs=[{}, skewed(skew)]) as fleet:
        async with aio.connect(fleet.targets) as client, Load(client, 20, seed=41) as load:
            await load.outlive(fleet, 2, Random(42))
            # Once from each to the other.
            for number in range(2):
                await asyncio.to_thread(fleet.terminate, number)
                await asyncio.to_thread(fleet.start, number)
                await load.run(0.3)
    load.check()


async def test_a_ticket_that_has_expired_where_the_clock_is_ahead_says_so() -> None:
    arguments = ("--demo", "--ticket-lifetime", str(HOUR))
    with Fleet(2, *arguments, envs=[{}, skewed(DAY)]) as fleet:
        right, ahead = fleet.targets
        async with aio.connect(right) as client, client.stream("sentiment") as stream:
            await stream.step("a")
            ticket = await stream.ticket()
            async with client.stream("sentiment", ticket=ticket) as branch:
                assert (await branch.step("b")).position == 1
        async with aio.connect(ahead) as client:
            with pytest.raises(elman.ElmanError, match="expired"):
                await client.stream("sentiment", ticket=ticket)
