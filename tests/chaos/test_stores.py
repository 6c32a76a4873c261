"""Named sessions while their store dies and comes back, and while two replicas fight over one.

pytest -m slow -s tests/chaos/test_stores.py
"""

import asyncio
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from time import monotonic

import pytest

import elman
from elman import aio
from elman_server.durable.tickets.keys import new_key
from elman_server.model.repository import BUNDLED
from tests.chaos.bridge import Bridge
from tests.chaos.fleet import Fleet
from tests.chaos.load import Load, quantiles
from tests.oracle import Oracle
from tests.server.durable.store.redisserver import RedisServer
from tests.server.durable.store.worlds import settle
from tests.serverprocess import ServerProcess

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
@pytest.mark.parametrize("outage", ["wait", "continue"])
async def test_a_store_that_dies_and_comes_back_empty_is_no_error_to_anybody(
    redis: RedisServer, sessions: int, kills: int, outage: str
) -> None:
    rng = Random(11)
    terms = (*TERMS, "--store-outage", outage)
    with Fleet(2, "--demo", "--state-store", redis.url, *terms) as fleet:
        # For the longest time in which no name is given out.
        async with aio.connect(fleet.targets, timeout=60, connect_timeout=60) as client:
            async with Load(client, sessions, seed=3, named=True) as load:
                for _ in range(kills):
                    await load.run(rng.uniform(0.5, 1.5))
                    redis.kill()
                    await load.run(rng.uniform(0.2, 2 * LEASE))
                    # Beside its store, one of the servers dies, too.
                    number, *_ = await asyncio.to_thread(fleet.busy)
                    await asyncio.to_thread(fleet.kill, number)
                    restarted = asyncio.create_task(asyncio.to_thread(fleet.start, number))
                    await load.run(rng.uniform(0.2, 1.0))
                    await asyncio.to_thread(redis.start)
                    await restarted
                    # Those that waited come back one by one, as their clients try again.
                    await load.get_on()
                await load.run(3 * LEASE)
                servers = [fleet[number] for number in range(2)]
                names = sum(server.metric("elman_named_sessions") for server in servers)
                failures = sum(
                    server.metric("elman_state_store_failures_total") for server in servers
                )
            load.check()
            await load.check_kept()
        assert names == sessions
        assert failures > 0
        verb = {"wait": "wait for", "continue": "go on without"}[outage]
        assert any(server.lines(f"named sessions {verb} the state store") for server in servers)
        assert any(server.lines("the state store is back") for server in servers)
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


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [4, pytest.param(30, marks=long)], ids=["short", "long"])
@pytest.mark.parametrize("outage", ["wait", "continue"])
async def test_a_store_that_stands_still_is_nothing_to_sessions_without_a_name(
    redis: RedisServer, outage: str, seconds: float
) -> None:
    """One client has both kinds, on one RPC. If they are to continue, the named ones do so, too."""
    terms = (*TERMS, "--store-outage", outage)
    with Fleet(1, "--demo", "--state-store", redis.url, *terms) as fleet:
        settle(redis.url)
        async with aio.connect(fleet.targets, timeout=60) as client:
            named, unnamed = Load(client, 20, seed=5, named=True), Load(client, 20, seed=6)
            async with named, unnamed:
                await unnamed.run(1.0)
                paused = monotonic()
                redis.pause()
                await unnamed.run(seconds)
                redis.resume()
                resumed = monotonic()
                await named.run(3 * LEASE)
                answered = named.answered
                await named.run(0.5)
                assert named.answered > answered
            named.check()
            unnamed.check()
    pauses = unnamed.latencies(paused, resumed)
    # As long as it takes on a machine that is busy, and no longer.
    assert max(pauses) < 1
    begun = paused + 2 * LEASE
    if outage == "continue":
        assert max(named.latencies(begun, resumed)) < 1
    else:
        assert not named.latencies(begun, resumed)
    print(f"\nRedis stood still for {seconds} s")
    print(quantiles("between predictions of sessions without a name", pauses))


@pytest.mark.parametrize("seconds", [4, pytest.param(30, marks=long)], ids=["short", "long"])
async def test_a_server_that_is_cut_off_from_the_store_answers_nothing_that_another_has(
    redis: RedisServer, seconds: float
) -> None:
    """Both have a client of the session, which pushes all the time."""
    oracle = Oracle(BUNDLED / "sentiment/1/model.onnx")
    settle(redis.url)
    arguments = ("--demo", *TERMS, "--state-store")
    env = {"ELMAN_TICKET_KEY": new_key()}
    async with Bridge(redis.port) as bridge:
        with (
            ServerProcess(*arguments, f"redis://{bridge.target}", env=env) as cut_off,
            ServerProcess(*arguments, redis.url, env=env) as other,
        ):
            async with (
                aio.connect(cut_off.target, timeout=60) as one,
                aio.connect(other.target, timeout=60, connect_timeout=60) as two,
            ):
                loser = await one.stream("sentiment", outputs="positive", session="contended")
                beside = await one.stream("sentiment", outputs="positive")
                before = [(await loser.step(each))["positive"] for each in "abc"]
                await asyncio.sleep(4 * LEASE / 3)  # until it is saved
                bridge.stall()
                bridge.refuses = True
                winner = await two.stream("sentiment", outputs="positive", session="contended")
                assert winner.position == 3
                waiting = asyncio.create_task(loser.step("d"))
                until = monotonic() + seconds
                count = 0
                while monotonic() < until:
                    before.append((await winner.step("z"))["positive"])
                    assert (await beside.step("a")).position == count
                    count += 1
                assert not waiting.done()
                bridge.refuses = False
                with pytest.raises(elman.SessionTaken) as caught:
                    await waiting
                assert caught.value.position == 3
                before.append((await winner.step("z"))["positive"])
    alone = oracle.run("abc" + "z" * (count + 1))
    assert before == [each["positive"].item() for each in alone]


async def test_a_server_that_stops_while_its_named_sessions_wait_ends_in_time(
    redis: RedisServer,
) -> None:
    """And another goes on with them when the store is back, to the bit."""
    terms = (*TERMS, "--grace-period", "1")
    settle(redis.url)
    with Fleet(2, "--demo", "--state-store", redis.url, *terms) as fleet:
        async with aio.connect(fleet.targets, timeout=60) as client:
            async with Load(client, 20, seed=7, named=True) as load:
                await load.run(0.5)
                redis.pause()
                await load.run(3 * LEASE)
                number, *_ = await asyncio.to_thread(fleet.busy)
                begun = monotonic()
                # 1, where it could not save them: the store said nothing to the end.
                assert await asyncio.to_thread(fleet[number].terminate) in (0, 1)
                seconds = monotonic() - begun
                redis.resume()
                await load.get_on()
            load.check()
            await load.check_kept()
    # Its grace, and a few seconds for what has a limit of its own.
    assert seconds < 1 + 10


@dataclass
class Claimant:
    """A client that takes a named session from whoever has it, again and again."""

    target: str
    rng: Random
    got: list[tuple[int, str, float, float]] = field(default_factory=list)
    """Position, element, prediction and when it came."""
    lost: int = 0

    async def fight(self, over: Callable[[], bool]) -> None:
        async with aio.connect(self.target, timeout=60, connect_timeout=60) as client:
            while not over():
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
        until, latest = monotonic() + seconds, monotonic() + seconds + 60

        def over() -> bool:
            # Who comes first is nobody's to say: on a slow machine one may wait for long.
            all_had_it = all(claimant.got for claimant in claimants)
            return monotonic() > (until if all_had_it else latest)

        await asyncio.gather(*(claimant.fight(over) for claimant in claimants))
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


@dataclass
class Attachment:
    """Of one client, to the session that they take from one another."""

    opened: float
    answered: list[float] = field(default_factory=list)


async def attach(target: str, rng: Random, until: float) -> list[Attachment]:
    """Takes the session again and again, and pushes while it has it."""
    found: list[Attachment] = []
    async with aio.connect(target, timeout=60, connect_timeout=60, keepalive=3600) as client:
        while monotonic() < until:
            stream = await client.stream("sentiment", outputs="positive", session="contended")
            found.append(Attachment(monotonic()))
            try:
                for _ in range(rng.randint(1, 60)):
                    text = "".join(rng.choices("abcdefghij ", k=rng.randint(1, 20)))
                    async for _ in stream.map(text):
                        found[-1].answered.append(monotonic())
                await stream.close()
            except elman.SessionTaken:
                pass
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [12, pytest.param(120, marks=long)], ids=["short", "long"])
async def test_nobody_is_answered_by_who_lost_the_session_while_it_stood_still(
    redis: RedisServer, seconds: float
) -> None:
    """Two replicas fight over it, and stand still in turn, for less or more than a lease."""
    rng = Random(17)
    with Fleet(2, "--demo", "--state-store", redis.url, *TERMS) as fleet:
        until = monotonic() + seconds
        clients = [
            asyncio.create_task(attach(target, Random(i), until))
            for i, target in enumerate(fleet.targets * 2)
        ]
        stops = 0
        while monotonic() < until - 4 * LEASE:
            await asyncio.sleep(rng.uniform(0.01, LEASE))
            process = fleet[stops % 2].process
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(rng.uniform(0.1, 3 * LEASE))
            process.send_signal(signal.SIGCONT)
            stops += 1
        found = await asyncio.gather(*clients)
    attachments = sorted((each for some in found for each in some), key=lambda each: each.opened)
    late = 0.0
    for older, newer in pairwise(each for each in attachments if each.answered):
        late = max(late, older.answered[-1] - newer.answered[0])
    total = sum(len(each.answered) for each in attachments)
    print(f"\n{stops} stops, {len(attachments)} attachments, {total} elements answered")
    print(f"the last answer to one came {1000 * late:.1f} ms after the first to the next, at most")
    assert all(some for some in found)
    # What was sent before may be read after.
    assert late < 0.05


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
