"""Which tickets may take a named session back behind what is kept of it."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman_server.durable.named.rewinding import Checkpoint, Resumption
from elman_server.errors import TicketRejected

ME, OTHER = b"me", b"other"


def resumption(position: int, replay: int | None) -> Resumption:
    return Resumption(position=position, attachment=ME, replay=replay)


def kept(position: int, attachment: bytes = ME) -> Checkpoint:
    return Checkpoint(position=position, attachment=attachment)


@pytest.mark.parametrize("replay", [0, 5, None])
def test_a_ticket_that_is_as_far_as_what_is_kept_decides_all(replay: int | None) -> None:
    assert resumption(10, replay).floor(None) == 0
    assert resumption(10, replay).floor(kept(9)) == 0
    assert resumption(10, replay).floor(kept(10)) == 0


def test_a_client_that_gets_to_what_is_kept_by_itself_goes_on_and_what_is_kept_stays() -> None:
    assert resumption(10, 5).floor(kept(12)) == 12
    assert resumption(10, 5).floor(kept(15)) == 15
    assert resumption(10, None).floor(kept(100)) == 100


@pytest.mark.parametrize(("replay", "position"), [(0, 11), (5, 16), (89, 100)])
def test_a_ticket_that_would_undo_what_is_kept_is_refused(replay: int, position: int) -> None:
    with pytest.raises(TicketRejected, match=f"position 10; .* at {position}") as caught:
        resumption(10, replay).floor(kept(position))
    assert caught.value.reason == "stale"


def test_what_another_client_left_is_older_than_a_restart() -> None:
    assert resumption(0, 0).floor(kept(100, OTHER)) == 0


@dataclass
class Kept:
    """A session as a store has it, and the one client that it has: elements are numbers."""

    pushed: list[int] = field(default_factory=list)
    """What the client has pushed, by all that it knows."""
    checkpoint: list[int] = field(default_factory=list)
    tickets: list[list[int]] = field(default_factory=lambda: [[]])
    """That the client got, oldest first."""


events = st.lists(
    st.tuples(
        st.sampled_from(["push", "save", "ticket", "crash", "old ticket"]), st.integers(0, 9)
    ),
    max_size=60,
)


@given(events)
def test_whatever_happens_what_was_kept_is_never_undone_and_the_client_always_goes_on(
    events: list[tuple[str, int]],
) -> None:
    it, server, floor = Kept(), list[int](), 0
    for number, (what, amount) in enumerate(events):
        match what:
            case "push":
                it.pushed += [number] * amount
                server += it.pushed[len(server) :]
            case "save" if len(server) >= floor:
                it.checkpoint = list(server)
            case "ticket":
                it.tickets.append(list(server))
            case "crash":
                # The client has its last ticket, and pushes again what came after it; not all of
                # that has been answered when the next thing happens.
                ticket = it.tickets[-1]
                again = resumption(len(ticket), len(it.pushed) - len(ticket))
                floor = again.floor(kept(len(it.checkpoint)))
                server = [*ticket, *it.pushed[len(ticket) :][:amount]]
            case "old ticket":
                ticket = it.tickets[amount % len(it.tickets)]
                by_hand = resumption(len(ticket), 0)
                if len(ticket) < len(it.checkpoint):
                    with pytest.raises(TicketRejected):
                        by_hand.floor(kept(len(it.checkpoint)))
                else:
                    assert by_hand.floor(kept(len(it.checkpoint))) == 0
        # It never goes back, and is always of what the client pushed.
        assert it.checkpoint == it.pushed[: len(it.checkpoint)]
        assert len(server) >= floor or it.checkpoint[: len(server)] == server
