"""Connections that are cut, delayed, stalled and refused: streams go on, and all is as if alone."""

import asyncio
import socket
from collections.abc import Iterator
from math import inf
from random import Random
from time import monotonic

import pytest

from elman import aio
from tests.chaos.bridge import Bridge
from tests.chaos.fleet import Fleet
from tests.chaos.load import Load
from tests.chaos.shells import Connect


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(1, "--demo", "--keepalive-time", "1") as fleet:
        yield fleet


async def test_connections_that_are_cut_in_the_middle_of_a_frame(
    fleet: Fleet, connect: Connect
) -> None:
    rng = Random(11)
    async with (
        Bridge(fleet.ports[0]) as bridge,
        connect(bridge.target) as client,
        Load(client, 40, seed=4) as load,
    ):
        for _ in range(25):
            bridge.cut_after(rng.randint(1, 3000))
            before = bridge.accepted
            async with asyncio.timeout(30):
                while bridge.accepted == before:
                    await load.run(0.02)
    load.check()
    assert bridge.accepted > 25


async def test_connections_that_are_cut_all_the_time(fleet: Fleet, connect: Connect) -> None:
    rng = Random(12)
    async with (
        Bridge(fleet.ports[0]) as bridge,
        connect(bridge.target) as client,
        Load(client, 40, seed=5) as load,
    ):
        for _ in range(40):
            await load.run(rng.uniform(0, 0.15))
            bridge.cut()
        await load.run(0.2)
    load.check()


async def test_a_network_that_is_slow_refuses_and_turns_connections_round(fleet: Fleet) -> None:
    async with (
        Bridge(fleet.ports[0]) as bridge,
        aio.connect(bridge.target, connect_timeout=30) as first,
        aio.connect(bridge.target, connect_timeout=30) as second,
        Load(first, 10, seed=6) as load,
        Load(second, 10, seed=7) as other,
    ):
        bridge.delay = 0.02
        await load.run(0.3)
        bridge.refuses = True
        bridge.cut()
        await asyncio.sleep(0.5)
        bridge.refuses = False
        bridge.hold(2)
        for each in (load, other):
            answered = each.answered
            async with asyncio.timeout(30):
                while each.answered == answered:
                    await each.run(0.05)
        bridge.delay = 0.0
        await load.run(0.2)
    load.check()
    other.check()


async def test_a_half_open_connection_is_found_by_keepalive(fleet: Fleet, connect: Connect) -> None:
    async with (
        Bridge(fleet.ports[0]) as bridge,
        connect(bridge.target, keepalive=5.0) as client,
        Load(client, 10, seed=8) as load,
    ):
        await load.run(0.2)
        moment = monotonic()
        bridge.stall()
        await asyncio.sleep(0.1)
        answered = load.answered
        await load.run(0.3)
        assert load.answered == answered
        async with asyncio.timeout(30):
            while load.answered == answered:
                await load.run(0.05)
        # Five seconds of silence, and five for the answer to a ping.
        assert monotonic() - moment < 20
        assert bridge.accepted == 2
    load.check()


async def test_a_name_whose_first_address_is_dead(fleet: Fleet) -> None:
    with socket.socket() as nobody:
        # Bound and not listening: refused.
        nobody.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{nobody.getsockname()[1]}"
        live = fleet.targets[0]
        for target in (f"ipv4:{dead},{live}", f"{dead},{live}", [dead, live]):
            async with aio.connect(target) as client, Load(client, 5, seed=9) as load:
                await load.run(0.1)
            load.check()


async def test_a_server_that_takes_connections_and_never_says_a_word(fleet: Fleet) -> None:
    """As one that hangs. The next is asked when the connect timeout is over."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        targets = [f"127.0.0.1:{mute.getsockname()[1]}", fleet.targets[0]]
        async with aio.connect(targets, connect_timeout=10) as client:
            async with Load(client, 5, seed=10) as load:
                await load.run(0.1)
            load.check()


async def test_a_stream_that_is_opened_on_a_dead_connection_is_opened_on_another(
    fleet: Fleet,
) -> None:
    async with (
        Bridge(fleet.ports[0]) as bridge,
        aio.connect(bridge.target, keepalive=inf, connect_timeout=1.0) as client,
    ):
        assert len(await client.models()) == 3
        await client.model("sentiment")
        bridge.stall()
        async with asyncio.timeout(8), client.stream("sentiment") as stream:
            assert (await stream.step("a")).position == 0


async def test_a_parked_stream_comes_back_on_another_connection_than_a_dead_one() -> None:
    with Fleet(1, "--demo", "--park-after", "0.2") as fleet:
        async with (
            Bridge(fleet.ports[0]) as bridge,
            aio.connect(bridge.target, keepalive=inf, connect_timeout=1.0) as client,
            client.stream("sentiment") as stream,
        ):
            await stream.step("a")
            while await asyncio.to_thread(fleet[0].metric, "elman_sessions"):
                await asyncio.sleep(0.05)
            bridge.stall()
            async with asyncio.timeout(8):
                assert (await stream.step("b")).position == 1
