"""An outbox keeps the order, and bounds what a caller that does not read can make the server
keep."""

from dataclasses import replace

import numpy as np

from elman_server.engine.outboxes.delivery import Delivery
from elman_server.engine.outboxes.mail import Mail
from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.sessions.ending import CANCELLED, FINISHED
from elman_server.engine.sessions.session import Session
from elman_server.engine.sessions.snapshot import Snapshot
from elman_server.engine.sessions.table import SessionTable
from tests.server.fakes import FakeSelection, session_in

SELECTION = FakeSelection()


def outbox(limit: float = float("inf")) -> Outbox:
    return Outbox(limit=limit, notify=lambda: None)


def session(box: Outbox) -> Session:
    return session_in(SessionTable(), box, SELECTION)


def delivery(box: Outbox, count: int) -> Delivery:
    return Delivery(
        selection=SELECTION,
        numbers=[0],
        counts=[count],
        first_positions=[0],
        outputs={"sum": np.zeros(count, np.int64)},
        times=np.zeros(count),
    )


def test_a_new_outbox_is_empty() -> None:
    box = outbox()
    assert box.take() == Mail()
    assert not box.full


def test_taking_empties_it_and_keeps_the_order() -> None:
    box = outbox()
    first, second = session(box), session(box)
    deliveries = [delivery(box, 1), delivery(box, 2)]
    box.opened(first.opened_event)
    box.deliver(deliveries[0])
    box.opened(second.opened_event)
    box.ended(first.ended_event(FINISHED))
    box.deliver(deliveries[1])
    mail = box.take()
    assert mail.opened == [first.opened_event, second.opened_event]
    assert mail.deliveries == deliveries
    assert mail.ended == [first.ended_event(FINISHED)]
    assert box.take() == Mail()


def test_it_is_full_at_its_limit_until_it_is_emptied() -> None:
    box = outbox(limit=delivery(outbox(), 10).held_nbytes)
    assert not fills(box, 9)
    assert fills(box, 10)
    box.take()
    assert not fills(box, 9)


def fills(box: Outbox, count: int) -> bool:
    """Whether it is full after a delivery of so many predictions."""
    box.deliver(delivery(box, count))
    return box.full


def test_it_is_never_full_without_a_limit() -> None:
    box = outbox()
    for _ in range(100):
        box.deliver(delivery(box, 1000))
    assert not box.full


def test_many_small_deliveries_fill_it_as_well_as_a_few_large_ones() -> None:
    """What holds one prediction takes far more memory than its bytes."""
    box = outbox(limit=1_000_000)
    for _ in range(10_000):
        box.deliver(delivery(box, 1))
    assert box.full


def test_sessions_that_come_and_go_fill_it_too() -> None:
    box = outbox(limit=1_000_000)
    for _ in range(20_000):
        one = session(box)
        box.opened(one.opened_event)
        box.ended(one.ended_event(FINISHED))
    assert box.full


def test_what_one_session_was_answered_can_be_forgotten() -> None:
    box = outbox()
    table = SessionTable()
    one, two = (session_in(table, box, SELECTION) for _ in range(2))
    one.number, two.number = 1, 2
    both = Delivery(
        selection=SELECTION,
        numbers=[1, 2, 1],
        counts=[2, 1, 3],
        first_positions=[0, 7, 2],
        outputs={"sum": np.arange(6)},
        times=np.arange(6.0),
    )
    alone = replace(both, numbers=[1], counts=[6], first_positions=[0])
    others = replace(both, numbers=[2], counts=[6], first_positions=[0])
    for each in (both, alone, others):
        box.deliver(each)
    box.opened(one.opened_event)
    snapshots = [
        (one, Snapshot(position=1, tensors=None)),
        (two, Snapshot(position=2, tensors=None)),
    ]
    for each_session, snapshot in snapshots:
        box.snapshot(each_session.snapshot_event(snapshot))
    box.ended(one.ended_event(FINISHED))
    assert not box.take().forgotten
    for each in (both, alone, others):
        box.deliver(each)
    mail = box.take()
    box.forget(one.number, CANCELLED)  # what was taken may not have been told yet
    assert mail.forgotten == {1: CANCELLED}
    first, none, second = (each.without(mail.forgotten) for each in mail.deliveries)
    assert not none.numbers
    assert (first.numbers, first.counts, first.first_positions) == ([2], [1], [7])
    assert first.outputs["sum"].tolist() == first.times.tolist() == [2]
    assert second is others
