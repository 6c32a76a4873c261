"""Servers that are killed, restarted and stopped under load: no caller sees any of it but in time.

The short runs are part of the suite; the long ones are run by hand, and print what they measured:

    pytest -m slow -s tests/chaos/test_servers.py
"""

import asyncio
import shutil
from pathlib import Path
from random import Random
from time import monotonic

import pytest

from elman import SessionLost, aio
from elman_server.model.repository import BUNDLED
from tests.chaos.fleet import Fleet
from tests.chaos.load import Load, p99, quantiles
from tests.chaos.shells import Client, Connect
from tests.oracle import Oracle

long = pytest.mark.slow

AFTER_KILL_SECONDS = 5.0
"""What p99 from a kill to the next prediction may be: a second and less on a quiet machine, and
time enough for one on which ten others run."""
RESTART_SECONDS = 2.0
"""What p99 of the predictions may be while replicas are restarted one after another."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("sessions", "kills"), [(60, 3), pytest.param(1000, 20, marks=long)], ids=["short", "long"]
)
async def test_a_replica_that_is_killed_costs_its_sessions_nothing_but_time(
    connect: Connect, sessions: int, kills: int
) -> None:
    with Fleet(2, "--demo") as fleet:
        async with connect(fleet.targets) as client, Load(client, sessions, seed=1) as load:
            moments = await load.outlive(fleet, kills, Random(7))
    load.check()
    pauses = load.pauses(moments)
    print(f"\n{sessions} sessions, {kills} kills, {load.answered} elements answered")
    print(quantiles("from a kill to the next prediction", pauses))
    assert load.answered > 0
    assert p99(pauses) < AFTER_KILL_SECONDS
    assert max(pauses) < 10


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("sessions", "rounds"), [(60, 1), pytest.param(1000, 3, marks=long)], ids=["short", "long"]
)
async def test_a_rolling_restart_is_no_error_to_anybody(
    connect: Connect, sessions: int, rounds: int
) -> None:
    with Fleet(3, "--demo") as fleet:
        async with connect(fleet.targets) as client, Load(client, sessions, seed=2) as load:
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
    assert p99(load.latencies(begun, ended)) < RESTART_SECONDS
    assert came > 3


async def _come_and_go(client: Client, stop: asyncio.Event) -> int:
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


async def test_a_server_that_stops_hands_every_session_over() -> None:
    """Closed as moved, not as stopped: with a ticket of just where it was, so that the next server
    has nothing to do again."""
    with Fleet(1, "--demo", "--log-level", "debug") as fleet:
        server = fleet[0]
        async with aio.connect(fleet.targets) as client, Load(client, 20, seed=4) as load:
            idle = [await client.stream("sentiment") for _ in range(5)]
            for stream in idle:
                await stream.step("a")
            await load.run(0.3)
            await asyncio.to_thread(fleet.terminate, 0)
            stopped = load.answered
            await asyncio.to_thread(fleet.start, 0)
            await load.get_on()
            done = fleet[0].metric("elman_elements_total")
            again = done - (load.answered - stopped)
            for stream in idle:
                assert (await stream.step("b")).position == 1
                await stream.close()
        load.check()
    assert len(server.lines("session ended", reason="moved")) == 25
    assert len(server.lines("session ended")) == 25
    # What was in flight when the server was told to stop, at most; and in flight now.
    assert again <= 2 * 20


@pytest.mark.parametrize("stop", ["terminate", "kill"])
@pytest.mark.parametrize("arguments", [(), ("--workers", "2")], ids=["alone", "workers"])
async def test_a_server_without_a_key_goes_on_after_a_stop_as_after_a_crash(
    tmp_path: Path, stop: str, arguments: tuple[str, ...]
) -> None:
    env = {"ELMAN_TICKET_KEY": "", "XDG_STATE_HOME": str(tmp_path)}
    with Fleet(1, "--demo", *arguments, env=env) as fleet:
        async with aio.connect(fleet.targets, ticket_every=100) as client:
            async with client.stream("sentiment", outputs="positive") as stream:
                got = [p["positive"] async for p in stream.map("abcdefgh" * 50)]
                ticket = await stream.ticket()
                await asyncio.to_thread(getattr(fleet, stop), 0)
                await asyncio.to_thread(fleet.start, 0)
                got += [p["positive"] async for p in stream.map("xyz")]
            async with client.stream("sentiment", outputs="positive", ticket=ticket) as stream:
                assert [p["positive"] async for p in stream.map("xyz")] == got[-3:]
        [line] = [each for each in fleet[0].log if "no ticket key" in each["event"]]
    alone = Oracle(BUNDLED / "sentiment/1/model.onnx").run("abcdefgh" * 50 + "xyz")
    assert got == [each["positive"].item() for each in alone]
    assert line["path"] == str(tmp_path / "elman" / "ticket-key")


async def test_a_server_that_can_keep_no_key_serves_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    env = {"ELMAN_TICKET_KEY": "", "XDG_STATE_HOME": str(tmp_path / "file")}
    with Fleet(1, "--demo", env=env) as fleet:
        async with aio.connect(fleet.targets) as client, client.stream("sentiment") as stream:
            await stream.step("a")
        [line] = [each for each in fleet[0].log if "no ticket key" in each["event"]]
    assert line["level"] == "warning"
    assert str(tmp_path / "file") in line["problem"]


async def test_a_stream_goes_on_when_its_only_server_is_back() -> None:
    with Fleet(1, "--demo") as fleet:
        async with (
            aio.connect(fleet.targets, ticket_every=100) as client,
            client.stream("sentiment") as stream,
        ):
            before = [p["positive"] async for p in stream.map("abcdefgh" * 50)]
            await asyncio.to_thread(fleet.kill, 0)
            await asyncio.to_thread(fleet.start, 0)
            assert (await stream.step("a")).position == 400
    assert len(before) == 400


async def test_a_server_that_does_not_come_back_ends_a_stream_with_its_last_ticket() -> None:
    with Fleet(1, "--demo") as fleet:
        async with aio.connect(fleet.targets, resume_timeout=1.0) as client:
            stream = await client.stream("sentiment")
            await stream.push_many("abcdefgh" * 200)
            await asyncio.to_thread(fleet.kill, 0)
            with pytest.raises(SessionLost) as caught:
                while True:
                    await stream.step("a")
    assert caught.value.position >= 0


async def test_a_model_that_is_gone_ends_a_stream_with_its_last_ticket(tmp_path: Path) -> None:
    """The server comes back without it; and when the model is back, the ticket is good."""
    models, away = tmp_path / "models", tmp_path / "away"
    shutil.copytree(BUNDLED / "sentiment", models / "mine")
    shutil.copytree(BUNDLED / "weather", models / "other")
    with Fleet(1, str(models)) as fleet:
        async with aio.connect(fleet.targets, ticket_every=100) as client:
            stream = await client.stream("mine", outputs="positive")
            got = [p["positive"] async for p in stream.map("abcdefgh" * 50)]
            ticket = await stream.ticket()
            await asyncio.to_thread(fleet.kill, 0)
            (models / "mine").rename(away)
            await asyncio.to_thread(fleet.start, 0)
            with pytest.raises(SessionLost) as caught:
                await stream.step("x")
            assert caught.value.position == 400
            assert caught.value.ticket == ticket
            async with client.stream("other") as other:
                assert other.position == 0
        await asyncio.to_thread(fleet.kill, 0)
        away.rename(models / "mine")
        await asyncio.to_thread(fleet.start, 0)
        async with (
            aio.connect(fleet.targets) as client,
            client.stream("mine", outputs="positive", ticket=ticket) as stream,
        ):
            assert stream.position == 400
            got += [p["positive"] async for p in stream.map("xyz")]
    alone = Oracle(BUNDLED / "sentiment/1/model.onnx").run("abcdefgh" * 50 + "xyz")
    assert got == [each["positive"].item() for each in alone]
