"""Named sessions while their store dies and comes back, and while two replicas fight over one.

pytest -m slow -s tests/chaos/test_stores.py
"""

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from time import monotonic

import pytest

import elman
from elman import aio
from elman_server.repository import BUNDLED
from tests.chaos.fleet import Fleet
from tests.chaos.load import Load, quantiles
from tests.oracle import Oracle
from tests.server.store.redisserver import RedisServer
from tests.server.store.worlds import settle

long = pytest.mark.slow
LEASE = 1.0
TERMS = ("--session-lease", str(LEASE), "--checkpoint-interval", "0.2")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("sessions", "kills"), [(40, 2), pytest.param(1000, 10, marks=long)], ids=["short", "long"]
)
async def test_a_store_that_dies_and_comes_back_empty_is_no_error_to_anybody(
    redis: RedisServer, sessions: int, kills: int
) -> None:
    rng = Random(11)
    with Fleet(2, "--demo", "--state-store", redis.url, *TERMS) as fleet:
        # For the longest time in which no name is given out.
        async with aio.connect(fleet.targets, timeout=60, connect_timeout=60) as client:
            async with Load(client, sessions, seed=3, named=True) as load:
                for _ in range(kills):
                    await load.run(rng.uniform(0.5, 1.5))
                    redis.kill()
                    await load.run(rng.uniform(0.2, 2 * LEASE))
                    # Beside its store, one of the servers dies, too.
                    [number] = await asyncio.to_thread(fleet.busy)
                    await asyncio.to_thread(fleet.kill, number)
                    restarted = asyncio.create_task(asyncio.to_thread(fleet.start, number))
                    await load.run(rng.uniform(0.2, 1.0))
                    await asyncio.to_thread(redis.start)
                    await restarted
                await load.run(3 * LEASE)
                [number] = await asyncio.to_thread(fleet.busy)
                server = fleet[number]
                names = await asyncio.to_thread(server.metric, "elman_named_sessions")
                failures = await asyncio.to_thread(
                    server.metric, "elman_state_store_failures_total"
                )
            load.check()
            await load.check_kept()
        assert names == sessions
        assert failures > 0
        assert server.lines("named sessions go on without the state store")
        assert server.lines("the state store is back")
    print(f"\n{sessions} named sessions, {kills} deaths of Redis and of a server at once")
    print(f"{load.answered} elements answered")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("sessions", "kills"), [(40, 2), pytest.param(1000, 20, marks=long)], ids=["short", "long"]
)
async def test_a_replica_that_is_killed_costs_named_sessions_no_more_than_others(
    redis: RedisServer, sessions: int, kills: int
) -> None:
    # A lease that nobody waits for.
    terms = ("--session-lease", "60", "--checkpoint-interval", "1")
    with Fleet(2, "--demo", "--state-store", redis.url, *terms) as fleet:
        settle(redis.url)
        async with aio.connect(fleet.targets) as client:
            async with Load(client, sessions, seed=4, named=True) as load:
                moments = await load.outlive(fleet, kills, Random(12))
            load.check()
            await load.check_kept()
    pauses = load.pauses(moments)
    print(f"\n{sessions} named sessions, {kills} kills, {load.answered} elements answered")
    print(quantiles("from a kill to the next prediction", pauses))
    assert max(pauses) < 10


@dataclass
class Claimant:
    """A client that takes a named session from whoever has it, again and again."""

    target: str
    rng: Random
    got: list[tuple[int, str, float, float]] = field(default_factory=list)
    """Position, element, prediction and when it came."""
    lost: int = 0

    async def fight(self, until: float) -> None:
        async with aio.connect(self.target, timeout=60, connect_timeout=60) as client:
            while monotonic() < until:
                stream = await client.stream("sentiment", outputs="positive", session="contended")
                try:
                    for _ in range(self.rng.randint(1, 400)):
                        element = self.rng.choice("abcdefghij ")
                        prediction = await stream.step(element)
                        value = prediction["positive"]
                        self.got.append((prediction.position, element, value, monotonic()))
                    await stream.close()
                except elman.SessionTaken:
                    self.lost += 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=long)], ids=["short", "long"])
async def test_of_two_replicas_that_fight_over_a_session_one_has_it_at_a_time(
    redis: RedisServer, seconds: float
) -> None:
    with Fleet(2, "--demo", "--state-store", redis.url, *TERMS) as fleet:
        claimants = [Claimant(target, Random(i)) for i, target in enumerate(fleet.targets * 2)]
        until = monotonic() + seconds
        await asyncio.gather(*(claimant.fight(until) for claimant in claimants))
    answers = sorted(answer for claimant in claimants for answer in claimant.got)
    # Every position is answered to one client, once, as if one client had pushed all of them.
    assert [position for position, *_ in answers] == list(range(len(answers)))
    oracle = Oracle(BUNDLED / "sentiment/1/model.onnx")
    alone = oracle.run("".join(element for _, element, *_ in answers))
    assert [value for *_, value, _ in answers] == [each["positive"].item() for each in alone]
    times = [time for *_, time in answers]
    print(f"\n{len(answers)} elements answered, {[c.lost for c in claimants]} times taken over")
    print(quantiles("from one to the next", [b - a for a, b in pairwise(times)]))
    assert all(claimant.got for claimant in claimants)
    assert sum(claimant.lost for claimant in claimants) > 1


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=long)], ids=["short", "long"])
async def test_a_server_that_stood_still_answers_nothing_of_what_it_lost(
    redis: RedisServer, rounds: int
) -> None:
    oracle = Oracle(BUNDLED / "sentiment/1/model.onnx")
    alone = [each["positive"].item() for each in oracle.run("axyzuvw")[1:]]
    with Fleet(2, "--demo", "--state-store", redis.url, *TERMS) as fleet:
        for number in range(rounds):
            frozen = fleet[number % 2]
            other = fleet.targets[1 - number % 2]
            # It does not go to another server by itself, and does not ask whether this one lives.
            async with (
                aio.connect(frozen.target, keepalive=3600) as one,
                aio.connect(other, timeout=60, connect_timeout=60) as two,
            ):
                losers, winners = (
                    [
                        partial(
                            client.stream, "sentiment", outputs="positive", session=f"{i}{number}"
                        )
                        for i in range(3)
                    ]
                    for client in (one, two)
                )
                streams = [await open() for open in losers]
                for stream in streams:
                    await stream.step("a")
                await asyncio.sleep(4 * LEASE / 3)  # until it is saved, and renewed
                # What it is asked for just before: a name, and a version by a name.
                asking = [
                    asyncio.ensure_future(one.stream("sentiment", session=f"other{number}")),
                    asyncio.ensure_future(one.model("sentiment", session=f"0{number}")),
                ]
                await asyncio.sleep(number * 0.0007)
                frozen.process.send_signal(signal.SIGSTOP)
                for stream in streams:
                    await stream.push_many("bcdef")
                # One of them has ended by the time that this is to be told.
                closing = asyncio.ensure_future(streams[1].close())
                for open in winners:
                    winner = await open()
                    assert winner.position == 1
                    values = [p["positive"] async for p in winner.map("xyzuvw")]
                    assert values == alone
                    await winner.close()
                frozen.process.send_signal(signal.SIGCONT)
                for stream in streams:
                    with pytest.raises(elman.SessionTaken):
                        async for late in stream:
                            raise AssertionError(f"answered all the same: {late}")
                await asyncio.gather(closing, *asking, return_exceptions=True)
