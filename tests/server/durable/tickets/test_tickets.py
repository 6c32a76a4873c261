"""A ticket is of one model, for one caller, for a time; within that it is the whole state."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from elman_server.durable.tickets.content import Attachment, Origin
from elman_server.durable.tickets.keyring import Keyring
from elman_server.durable.tickets.tickets import Tickets
from elman_server.engine.sessions.snapshot import Cadence, Snapshot
from elman_server.errors import ForeignTicket, TicketRejected
from elman_server.model.spec import ContextSpec, ModelSpec, StateSpec
from tests.stepmodels import leaky

ORIGIN = Origin(model="sentiment", version="3", fingerprint="ab" * 32)
KEY = bytes(32)
SPEC = replace(
    leaky()[1],
    states=(
        StateSpec(name="a", input="a", output="A", dtype="float32", shape=(5,), batch_axis=0),
        StateSpec(name="b", input="b", output="B", dtype="float16", shape=(2, 3), batch_axis=1),
        StateSpec(name="c", input="c", output="C", dtype="bool", shape=(2, 1), batch_axis=0),
        StateSpec(name="d", input="d", output="D", dtype="int64", shape=(), batch_axis=0),
    ),
    contexts=(ContextSpec(name="tilt", dtype="float64", shape=(2,), input="tilt"),),
)
SNAPSHOT = Snapshot(
    position=10**12,
    tensors=(
        np.array([1, -0.0, np.nan, np.inf, 1e-40], np.float32),
        np.arange(6, dtype=np.float16).reshape(2, 3),
        np.array([[True], [False]]),
        np.array(-(2**62)),
        np.array([0.1, 0.2]),
    ),
)


def tickets(
    origin: Origin = ORIGIN,
    spec: ModelSpec = SPEC,
    key: bytes = KEY,
    clock: Callable[[], float] = lambda: 1000.0,
) -> Tickets:
    return Tickets(
        origin, spec, keyring=Keyring([key]), lifetime=60.0, least=Cadence(), clock=clock
    )


def test_any_server_of_the_model_gets_the_state_back_to_the_bit() -> None:
    found = tickets().redeem(tickets().issue(SNAPSHOT, "me"), "me")
    assert found.position == SNAPSHOT.position
    assert bits(found) == bits(SNAPSHOT)


def bits(snapshot: Snapshot) -> list[Any]:
    return [(array.dtype, array.shape, array.tobytes()) for array in snapshot.tensors or ()]


def test_its_size_is_known_before() -> None:
    attachment = Attachment(session=bytes(32), id=bytes(16))
    assert len(tickets().issue(SNAPSHOT, "", attachment)) == tickets().nbytes
    assert len(tickets().issue(SNAPSHOT, "")) < tickets().nbytes


def test_a_session_in_the_initial_state_needs_no_tensors() -> None:
    fresh = Snapshot(position=0, tensors=None)
    ticket = tickets().issue(fresh, "")
    assert len(ticket) < 300
    assert tickets().redeem(ticket, "") == fresh


def test_a_model_without_a_state_has_tickets_too() -> None:
    spec = replace(leaky()[1], states=())
    stateless = Snapshot(position=7, tensors=())
    assert tickets(spec=spec).redeem(tickets(spec=spec).issue(stateless, ""), "") == stateless


@pytest.mark.parametrize(
    ("here", "reason", "says"),
    [
        (tickets(replace(ORIGIN, model="weather")), "model", "of model 'sentiment'"),
        (tickets(replace(ORIGIN, fingerprint="cd" * 32)), "fingerprint", "'abababababab'"),
        (tickets(key=b"\1" * 32), "unknown_key", "does not have"),
        (tickets(clock=lambda: 1060.0), "expired", "at 1970-01-01T00:17:40+00:00"),
    ],
)
def test_who_can_not_go_on_from_it_says_why(here: Tickets, reason: str, says: str) -> None:
    ticket = tickets().issue(SNAPSHOT, "me")
    with pytest.raises(TicketRejected) as caught:
        here.redeem(ticket, "me")
    assert caught.value.reason == reason
    assert not isinstance(caught.value, ForeignTicket)
    assert says in str(caught.value)


def test_the_same_network_may_have_another_version() -> None:
    renumbered = tickets(replace(ORIGIN, version="4"))
    assert bits(renumbered.redeem(tickets().issue(SNAPSHOT, ""), "")) == bits(SNAPSHOT)


def test_it_is_good_until_it_expires() -> None:
    assert tickets(clock=lambda: 1059.9).redeem(tickets().issue(SNAPSHOT, ""), "")


@pytest.mark.parametrize("thief", ["", "you", "me\n"])
def test_it_is_good_for_its_own_caller_alone(thief: str) -> None:
    ticket = tickets().issue(SNAPSHOT, "me")
    for take in (tickets().redeem, tickets().origin):
        with pytest.raises(ForeignTicket) as caught:
            take(ticket, thief)
        assert caught.value.reason == "identity"
        assert "sentiment" not in str(caught.value)


def test_it_tells_which_network_it_is_of() -> None:
    other = tickets(replace(ORIGIN, version="9", fingerprint="cd" * 32))
    assert other.origin(tickets().issue(SNAPSHOT, ""), "") == ORIGIN


def test_a_ticket_of_a_named_session_tells_whose_it_is() -> None:
    attachment = Attachment(session=b"s" * 32, id=b"a" * 16)
    issued = tickets().issue(SNAPSHOT, "me", attachment)
    snapshot, found = tickets().redeem_named(issued, "me", b"s" * 32)
    assert found == attachment
    assert bits(snapshot) == bits(tickets().redeem(issued, "me")) == bits(SNAPSHOT)
    for ticket, session in ((issued, b"t" * 32), (tickets().issue(SNAPSHOT, "me"), b"s" * 32)):
        with pytest.raises(TicketRejected) as caught:
            tickets().redeem_named(ticket, "me", session)
        assert caught.value.reason == "session"
    with pytest.raises(ForeignTicket):
        tickets().redeem_named(issued, "you", b"s" * 32)
