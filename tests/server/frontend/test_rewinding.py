"""Tickets that are older than what the store has of a named session."""

from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from elman.v1 import inference_pb2 as pb
from elman_server.durable.store.file import FileStore
from elman_server.durable.store.interface import StoreUnavailable
from tests.server.frontend.harness import LocalServer, push
from tests.server.frontend.test_keeping import Unreliable, kept
from tests.server.frontend.test_naming import Start, left, named, opened, start

__all__ = ["start"]


async def saved(server: LocalServer, tmp_path: Path, position: int) -> None:
    store = FileStore(tmp_path / "store")
    await kept(server, store, position)
    await store.close()


async def refused(server: LocalServer, **fields: Any) -> str:
    stream = server.stream()
    await stream.send(opens=[named(1, **fields)])
    await stream.ended(1)
    assert stream.closed[1][0].reason == pb.CLOSE_REASON_TICKET_REJECTED
    stream.call.cancel()
    return stream.closed[1][0].message


@pytest.mark.parametrize("gone", [True, False], ids=["whose client is gone", "that is open"])
@pytest.mark.parametrize("here", [True, False], ids=["here", "on another server"])
async def test_an_old_ticket_does_not_rewind_a_session(
    start: Start, tmp_path: Path, logits: Any, here: bool, gone: bool
) -> None:
    one, two = await start(session_lease=30.0), await start(session_lease=30.0)
    stream = await opened(one)
    old = stream.tickets[1][0].ticket
    await stream.push(1, "abc")
    await stream.answered(1, 3)
    if gone:
        await left(stream)
    else:
        await saved(one, tmp_path, 3)
    server = one if here else two
    message = await refused(server, ticket=old, replay=0)
    assert "position 0" in message
    assert "at 3" in message
    assert server.metric("elman_tickets_rejected_total", reason="stale") == 1
    # Nothing has happened to the session, and a branch harms nobody.
    branch = server.stream()
    await branch.send(opens=[pb.Open(session=1, ticket=old)])
    await branch.until(lambda: 1 in branch.opened)
    if gone:
        stream = await opened(server)
        assert stream.opened[1].position == 3
    first = stream.opened[1].position
    await stream.push(1, "d")
    await stream.answered(1, 4 - first)
    assert logits("abc"[:first]) + stream.values(1) == logits("abcd")


async def test_an_old_ticket_does_not_rewind_a_session_that_is_about_to_be_saved(
    start: Start, tmp_path: Path
) -> None:
    """Its client is gone, and what it left is not in the store yet."""
    server = await start(session_lease=30.0)
    stream = await opened(server)
    old = stream.tickets[1][0].ticket
    store = server.lease_keeper._checkpoint_writer._store = Unreliable(server.lease_keeper._store)
    store.error, store.failing = StoreUnavailable("full"), {"save"}
    await stream.push(1, "abc")
    await stream.answered(1, 3)
    stream.call.cancel()
    await server.until(lambda: not server.admission.sessions)
    assert "at 3" in await refused(server, ticket=old, replay=0)
    store.error = None
    await saved(server, tmp_path, 3)


async def test_a_ticket_of_just_what_is_kept_goes_on(start: Start, logits: Any) -> None:
    one, two = await start(session_lease=30.0), await start(session_lease=30.0)
    stream = await opened(one)
    await stream.send(push=push({1: "abc"}), tickets=[1])
    await stream.until(lambda: stream.tickets[1][-1].position == 3)
    await left(stream)
    again = await opened(two, ticket=stream.tickets[1][-1].ticket, replay=0)
    await again.push(1, "d")
    await again.answered(1, 1)
    assert stream.values(1) + again.values(1) == logits("abcd")


@pytest.mark.parametrize("fields", [{"replay": 3}, {"replay": 7}, {}])
async def test_a_client_that_pushes_again_goes_on_from_an_older_ticket(
    start: Start, logits: Any, fields: dict[str, int]
) -> None:
    """And what is kept stays until the session is as far again."""
    one, two = await start(session_lease=30.0), await start(session_lease=30.0)
    first = await opened(one)
    ticket = first.tickets[1][0].ticket
    await first.push(1, "abc")
    await first.answered(1, 3)
    await left(first)
    second = await opened(two, ticket=ticket, **fields)
    assert second.opened[1].position == 0
    await second.push(1, "ab")
    await second.answered(1, 2)
    await left(second)
    third = await opened(one)
    assert third.opened[1].position == 3
    await third.push(1, "d")
    await third.answered(1, 1)
    assert logits("abc") + third.values(1) == logits("abcd")


async def test_a_session_that_was_restarted_goes_on_before_it_is_saved(
    start: Start, logits: Any
) -> None:
    """What another client left is further, and of no account any more."""
    one, two = await start(session_lease=30.0), await start(session_lease=30.0)
    stream = await opened(one)
    await stream.push(1, "abc")
    await stream.answered(1, 3)
    again = await opened(one, restart=True)
    ticket = again.tickets[1][0].ticket
    third = await opened(two, ticket=ticket, replay=0)
    await third.push(1, "xy")
    await third.answered(1, 2)
    assert third.values(1) == logits("xy")
    await left(third)
    assert (await opened(two)).opened[1].position == 2


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_order_things_come_in_the_session_is_one(
    start: Start, logits: Any, seed: int
) -> None:
    """A client of one attachment that loses its server now and then, and somebody who tries its old
    tickets."""
    rng = Random(seed)
    # A lease that does not run out on a machine that is busy.
    servers = [await start(session_lease=30.0), await start(session_lease=30.0)]
    client = Resumer(rng.choice(servers), logits)
    client.stream = await opened(client.server, ticket_every_elements=1)
    await client.get_on()
    for _ in range(12):
        match rng.choice(["push", "push", "lose", "old ticket"]):
            case "push":
                client.text += "".join(rng.choices("abcdefgh", k=rng.randint(1, 5)))
                await client.get_on()
            case "lose":
                before = client.stream
                if rng.random() < 0.5:
                    await left(before)
                await client.resume(rng.choice(servers), rng.choice(sorted(client.tickets)))
                before.call.cancel()
            case "old ticket" if len(client.tickets) > 1:
                await left(client.stream)
                old = rng.choice(sorted(client.tickets)[:-1])
                await refused(rng.choice(servers), ticket=client.tickets[old], replay=0)
                await client.resume(rng.choice(servers), len(client.text))
    await left(client.stream)
    last = await opened(rng.choice(servers))
    assert last.opened[1].position == len(client.text)
    await last.push(1, "z")
    await last.answered(1, 1)
    assert logits(client.text) + last.values(1) == logits(client.text + "z")


@dataclass
class Resumer:
    """A client of one attachment, that has all its tickets."""

    server: LocalServer
    logits: Any
    stream: Any = None
    text: str = ""
    """All that it pushed."""
    tickets: dict[int, bytes] = field(default_factory=dict)
    """By their positions."""
    first: int = 0
    """The position at which its stream began."""
    sent: int = 0
    """The position up to which its stream has got what it is to push."""

    async def resume(self, server: LocalServer, position: int) -> None:
        self.server, self.first, self.sent = server, position, position
        replay = len(self.text) - position
        self.stream = await opened(server, ticket=self.tickets[position], replay=replay)
        await self.get_on()

    async def get_on(self) -> None:
        """Pushes what is to be pushed, checks what it gets, and keeps the tickets."""
        stop = len(self.text)
        more = push({1: self.text[self.sent :]}) if self.sent < stop else None
        self.sent = stop
        await self.stream.send(push=more, tickets=[1])
        await self.stream.until(
            lambda: any(ticket.position == stop for ticket in self.stream.tickets.get(1, ()))
        )
        before = self.logits(self.text[: self.first])
        assert before + self.stream.values(1) == self.logits(self.text)
        self.tickets |= {each.position: each.ticket for each in self.stream.tickets[1]}
