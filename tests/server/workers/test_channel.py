"""What one side says the other hears, whole and in order, until one of them is gone."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from elman_server.config import ServerConfig
from elman_server.telemetry.family import Family, Key
from elman_server.workers.channel import Channel
from elman_server.workers.messages import (
    Begin,
    Failed,
    Listen,
    Loaded,
    Message,
    Report,
    Samples,
    Serving,
    Stop,
)

Pair = tuple[Channel, Channel]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    one, two = socket.socketpair()
    channels = await Channel.of(one), await Channel.of(two)
    yield channels
    for channel in channels:
        await channel.close()


async def test_messages_arrive_as_they_were_sent(pair: Pair) -> None:
    samples: dict[Key, float] = {("steps", (("model", "ä"),)): 1e-300}
    messages: list[Message] = [
        Begin(number=1, config=ServerConfig(demo=True, providers=("A", "B"), grace_period=0.1)),
        Report(number=3),
        Samples(families=(Family(name="s", kind="g", help="", samples=samples),), answers=3),
        Loaded(models=("a/1 0",)),
        Listen(),
        Serving(),
        Failed(message="line"),
        Stop(at_once=True),
    ]
    for message in messages:
        await pair[0].send(message)
    assert [await pair[1].receive() for _ in messages] == messages


async def test_what_does_not_fit_into_the_sockets_buffer_arrives_too(pair: Pair) -> None:
    message = Failed(message="x" * 10_000_000)
    sending = asyncio.create_task(pair[0].send(message))
    assert await pair[1].receive() == message
    await sending


async def test_the_end_of_one_is_told_to_the_other(pair: Pair) -> None:
    await pair[0].send(Report(number=1))
    await pair[0].close()
    assert await pair[1].receive() == Report(number=1)
    assert await pair[1].receive() is None
    for _ in range(3):
        await pair[1].send(Report(number=2))


async def test_an_end_within_a_message_is_an_end(pair: Pair) -> None:
    pair[0]._writer.write(b"\0\0\1\0half")
    await pair[0].close()
    assert await pair[1].receive() is None


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_sending_to_one_who_is_gone_says_nothing(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def send() -> None:
        one, two = socket.socketpair()
        channel = await Channel.of(one)
        two.close()
        assert await channel.receive() is None
        for _ in range(5):
            await channel.send(Report(number=1))
        # As long as what is written has to wait, too.
        await channel.send(Failed(message="x" * 10_000_000))
        await channel.close()
        await channel.send(Report(number=2))
        await channel.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(send())
