"""Servers that are silent, away, or would not have a session: in threads and in asyncio."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from time import monotonic

import pytest

import elman
from tests.chaos.bridge import Bridge
from tests.chaos.fleet import Fleet
from tests.chaos.shells import SHELLS, connected
from tests.serverprocess import ServerProcess
from tests.stepmodels import save_lstm

PATIENCE = 60.0
"""Of what should be done long before, on a machine that has other things to do."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(2, "--demo") as fleet:
        yield fleet


async def bridges(stack: AsyncExitStack, ports: list[int]) -> list[Bridge]:
    return [await stack.enter_async_context(Bridge(port)) for port in ports]


def silence(ways: list[Bridge]) -> None:
    """Connections are taken, and nobody says a word."""
    for way in ways:
        way.mute = True
        way.cut()


@SHELLS
async def test_addresses_that_are_all_mute_for_a_while(shell: str, fleet: Fleet) -> None:
    """As dead pods in a cached answer of DNS. The reconnect is still connecting when its time is
    over."""
    async with AsyncExitStack() as stack:
        ways = await bridges(stack, fleet.ports[:1] * 3)
        target = "ipv4:" + ",".join(way.target for way in ways)
        client = await stack.enter_async_context(
            connected(shell, target, connect_timeout=1, timeout=PATIENCE)
        )
        stream = await client.stream("sentiment")
        await stream.step("a")
        silence(ways)
        answer = asyncio.ensure_future(stream.step("b"))
        await asyncio.sleep(3)
        assert not answer.done()
        for way in ways:
            way.mute = False
        assert (await answer).position == 1


@SHELLS
async def test_a_session_is_lost_in_time_and_a_close_returns_while_all_are_mute(
    shell: str, fleet: Fleet
) -> None:
    async with AsyncExitStack() as stack:
        ways = await bridges(stack, fleet.ports[:1] * 3)
        target = "ipv4:" + ",".join(way.target for way in ways)
        client = await stack.enter_async_context(
            connected(shell, target, connect_timeout=1, resume_timeout=3, timeout=PATIENCE)
        )
        streams = [await client.stream("sentiment") for _ in range(3)]
        for stream in streams:
            await stream.step("a")
        silence(ways)
        began = monotonic()
        lost = await asyncio.gather(*(s.step("b") for s in streams), return_exceptions=True)
        assert [type(error) for error in lost] == [elman.SessionLost] * 3
        assert monotonic() - began < 20
        began = monotonic()
        await client.close(grace=1)
        assert monotonic() - began < 10


@SHELLS
@pytest.mark.parametrize("form", ["list", "name"])
async def test_of_several_addresses_that_fail_at_once_the_good_one_is_found(
    shell: str, form: str, fleet: Fleet
) -> None:
    async with AsyncExitStack() as stack:
        ways = await bridges(stack, fleet.ports[:1] * 5)
        targets = [way.target for way in ways]
        client = await stack.enter_async_context(
            connected(
                shell, targets if form == "list" else "ipv4:" + ",".join(targets), timeout=PATIENCE
            )
        )
        stream = await client.stream("sentiment")
        await stream.step("a")
        good = next(way for way in ways if not way.accepted)
        for number, way in enumerate(way for way in ways if way is not good):
            way.mute, way.refuses = number % 2 == 0, number % 2 == 1
        began = monotonic()
        for way in ways:
            way.cut()
        assert (await stream.step("b")).position == 1
        # Each mute one of a list has its part of the connect timeout.
        assert monotonic() - began < 10


@SHELLS
async def test_a_stream_that_nobody_uses_outlives_any_outage(shell: str) -> None:
    with Fleet(1, "--demo") as fleet:
        async with connected(shell, fleet.targets, resume_timeout=1, timeout=PATIENCE) as client:
            stream = await client.stream("sentiment")
            whole = await client.predict("sentiment", "ab")
            await stream.step("a")
            await asyncio.to_thread(fleet.kill, 0)
            await asyncio.sleep(2.5)
            await asyncio.to_thread(fleet.start, 0)
            again = await stream.step("b")
            assert again.position == 1
            assert again["positive"] == whole[1]["positive"]


@SHELLS
async def test_with_default_settings_a_silent_connection_is_a_pause(
    shell: str, fleet: Fleet
) -> None:
    async with AsyncExitStack() as stack:
        ways = await bridges(stack, fleet.ports)
        targets = [way.target for way in ways]
        client = await stack.enter_async_context(connected(shell, targets))
        stream = await client.stream("sentiment")
        await stream.step("a")
        for number in range(2):
            for way in ways:
                way.stall()
            began = monotonic()
            if number == 0:
                assert len(await stream.all_of("bcd")) == 3
            else:
                assert len(await client.predict("sentiment", "abc")) == 3
            assert monotonic() - began < 20


@SHELLS
async def test_of_a_name_with_many_addresses_the_one_that_takes_a_session_is_found(
    shell: str, tmp_path: Path
) -> None:
    """All others have another version alone. The one that the session was on is gone."""
    save_lstm(tmp_path / "old/m/1/model.onnx")
    save_lstm(tmp_path / "new/m/2/model.onnx", seed=2)
    env = {"ELMAN_TICKET_KEY": "00" * 32}
    with ExitStack() as servers:
        dying, keeper, new = (
            servers.enter_context(ServerProcess(str(tmp_path / folder), env=env))
            for folder in ("old", "old", "new")
        )
        async with AsyncExitStack() as stack:
            port = int(new.target.rpartition(":")[2])
            ways = await bridges(stack, [port] * 7)
            first = await stack.enter_async_context(Bridge(int(dying.target.rpartition(":")[2])))
            last = Bridge(int(keeper.target.rpartition(":")[2]))
            for way in [*ways, last]:
                way.refuses = True
            await stack.enter_async_context(last)
            target = "ipv4:" + ",".join(way.target for way in [first, *ways, last])
            clients = [
                await stack.enter_async_context(
                    connected(shell, target, connect_timeout=30, timeout=PATIENCE)
                )
                for _ in range(5)
            ]
            streams = [await client.stream("m", version=1) for client in clients]
            for stream in streams:
                await stream.step("a")
            for way in [*ways, last]:
                way.refuses = False
            first.refuses = True
            await asyncio.to_thread(dying.kill)
            answers = await asyncio.gather(*(stream.step("b") for stream in streams))
            assert [answer.position for answer in answers] == [1] * 5


@SHELLS
async def test_parked_streams_that_are_woken_together_are_all_answered(shell: str) -> None:
    count = 1500 if shell == "asyncio" else 150
    with Fleet(1, "--demo", "--park-after", "0.3") as fleet:
        async with connected(shell, fleet.targets, timeout=PATIENCE) as client:
            streams = await asyncio.gather(*(client.stream("sentiment") for _ in range(count)))
            while await asyncio.to_thread(fleet[0].metric, "elman_sessions"):
                await asyncio.sleep(0.05)
            answers = await asyncio.gather(*(stream.step("a") for stream in streams))
            assert [answer.position for answer in answers] == [0] * count
