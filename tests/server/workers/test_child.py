"""A worker whose supervisor is gone stops, whatever it was about to say."""

import asyncio
import pickle
import socket
from collections.abc import Callable

import pytest
import uvloop

from elman_server.stopping import Stopping
from elman_server.workers.channel import Channel
from elman_server.workers.child import _Orders, _Reports
from elman_server.workers.messages import Message, Report, Serving, Stop

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def written(*messages: Message) -> bytes:
    found = b""
    for message in messages:
        data = pickle.dumps(message)
        found += len(data).to_bytes(4) + data
    return found


@pytest.mark.parametrize("loop", LOOPS)
def test_one_that_is_asked_for_reports_by_who_is_gone_before_they_are_made(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def follow() -> bool:
        ours, theirs = socket.socketpair()
        channel = await Channel.of(ours)
        stopping, reports = Stopping(), _Reports(channel)
        theirs.sendall(written(*[Report(number=number) for number in range(5)]))
        theirs.close()
        orders = _Orders(stopping)
        await orders.follow(channel, reports)
        # As when it ends.
        await reports.send()
        await channel.send(Serving())
        await channel.close()
        return stopping.drain.is_set() and orders.listen.is_set()

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(follow())


@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_no_order_stops_it_and_is_told(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def follow() -> bool:
        ours, theirs = socket.socketpair()
        channel = await Channel.of(ours)
        stopping = Stopping()
        theirs.sendall(written(Serving(), Stop(at_once=True)))
        with pytest.raises(TypeError, match="Serving is no message for a worker"):
            await _Orders(stopping).follow(channel, _Reports(channel))
        await channel.close()
        theirs.close()
        return stopping.drain.is_set()

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(follow())
