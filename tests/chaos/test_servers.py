"""Servers that are killed, restarted and stopped under load: no caller sees any of it but in time.

The short runs are part of the suite; the long ones are run by hand, and print what they measured:

    pytest -m slow -s tests/chaos/test_servers.py
"""

import asyncio
from random import Random
from time import monotonic

import pytest

from elman import aio
from tests.chaos.fleet import Fleet
from tests.chaos.load import Load, quantiles

long = pytest.mark.slow


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("sessions", "kills"), [(60, 3), pytest.param(1000, 20, marks=long)], ids=["short", "long"]
)
async def test_a_replica_that_is_killed_costs_its_sessions_nothing_but_time(
    sessions: int, kills: int
) -> None:
    with Fleet(2, "--demo") as fleet:
        async with aio.connect(fleet.targets) as client, Load(client, sessions, seed=1) as load:
            moments = await load.outlive(fleet, kills, Random(7))
    load.check()
    pauses = load.pauses(moments)
    print(f"\n{sessions} sessions, {kills} kills, {load.answered} elements answered")
    print(quantiles("from a kill to the next prediction", pauses))
    assert load.answered > 0
    assert max(pauses) < 10


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("sessions", "rounds"), [(60, 1), pytest.param(1000, 3, marks=long)], ids=["short", "long"]
)
async def test_a_rolling_restart_is_no_error_to_anybody(sessions: int, rounds: int) -> None:
    with Fleet(3, "--demo") as fleet:
        async with aio.connect(fleet.targets) as client, Load(client, sessions, seed=2) as load:
            enough = asyncio.Event()
            newcomers = asyncio.create_task(_come_and_go(client, enough))
            start = monotonic()
            await load.run(1.0 if sessions < 100 else 5.0)
            begun = monotonic()
            for _ in range(rounds):
                for number in range(3):
                    await asyncio.to_thread(fleet.terminate, number)
                    await asyncio.to_thread(fleet.start, number)
                    await load.run(0.2)
            ended = monotonic()
            enough.set()
            came = await newcomers
    load.check()
    print(f"\n{sessions} sessions, {3 * rounds} restarts, {load.answered} elements answered")
    print(f"{came} streams and sequences opened meanwhile")
    print(quantiles("latency before", load.latencies(start, begun)))
    print(quantiles("latency during the restarts", load.latencies(begun, ended)))
    assert came > 3


async def _come_and_go(client: aio.Client, stop: asyncio.Event) -> int:
    """Opens streams and asks for whole sequences, one after another; how many."""
    [first] = [p["positive"] for p in await client.predict("sentiment", "a")]
    came = 0
    while not stop.is_set():
        async with client.stream("sentiment") as stream:
            assert (await stream.step("a"))["positive"] == first
        assert (await client.predict("sentiment", "a"))["positive"].tolist() == [first]
        came += 2
        await asyncio.sleep(0.01)
    return came


async def test_streams_spread_over_new_servers_when_connections_age() -> None:
    with Fleet(2, "--demo", "--max-connection-age", "0.5") as fleet:
        async with aio.connect(fleet.targets) as client, Load(client, 20, seed=3) as load:
            seen: set[int] = set()
            async with asyncio.timeout(60):
                while len(seen) < 2:
                    await load.run(0.1)
                    seen |= set(await asyncio.to_thread(fleet.busy))
        moved = sum(fleet[n].metric("elman_sessions_closed_total", reason="moved") for n in (0, 1))
    load.check()
    assert moved >= 20


async def test_a_model_that_is_gone_ends_a_stream_with_its_last_ticket() -> None:
    from elman import SessionLost

    with Fleet(1, "--demo") as fleet:
        async with aio.connect(fleet.targets, ticket_every=100) as client:
            async with client.stream("sentiment") as stream:
                before = [p["positive"] async for p in stream.map("abcdefgh" * 50)]
                await asyncio.to_thread(fleet.kill, 0)
                await asyncio.to_thread(fleet.start, 0)
                assert (await stream.step("a")).position == 400
            async with client.stream("weather") as other:
                assert other.position == 0
        async with aio.connect(fleet.targets, resume_timeout=1.0) as client:
            stream = await client.stream("sentiment")
            await stream.push_many("abcdefgh" * 200)
            await asyncio.to_thread(fleet.kill, 0)
            with pytest.raises(SessionLost) as caught:
                while True:
                    await stream.step("a")
    assert len(before) == 400
    assert caught.value.position >= 0
