"""Who goes into the next step, and who waits for how long."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman_server.engine.jobs.batch import Batch
from elman_server.engine.limits import Chunking, StepLimits
from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.scheduler import Scheduler
from elman_server.engine.sessions.ending import FINISHED, Ending, EndReason
from elman_server.engine.sessions.request import OpenRequest
from elman_server.engine.sessions.session import Session
from tests.server.fakes import FakeSelection, complete, ids, push, slots, slots_of

SELECTION = FakeSelection()
INVALID = Ending(reason=EndReason.INVALID_ELEMENT, message="no such element")


def outbox(limit: float = float("inf")) -> Outbox:
    return Outbox(limit=limit, notify=lambda: None)


def limits(
    *,
    rows: int = 4,
    elements: int = 64,
    chunk: int = 16,
    chunking: Chunking = Chunking.RAGGED,
) -> StepLimits:
    return StepLimits(
        max_batch_size=rows, max_step_elements=elements, max_chunk=chunk, chunking=chunking
    )


def add(scheduler: Scheduler, pending: int = 0, box: Outbox | None = None) -> Session:
    session = scheduler.add(
        OpenRequest(number=0, outbox=box or outbox(), selection=SELECTION), id=""
    )
    push(scheduler, session, np.zeros(pending, np.int64), 0.0)
    return session


def schedule(scheduler: Scheduler) -> Batch:
    batch = scheduler.schedule()
    assert isinstance(batch, Batch)
    return batch


def fail(scheduler: Scheduler, batch: Batch) -> list[Session]:
    return scheduler.lifecycle.fail(slots_of(batch), INVALID)


def test_nobody_is_scheduled_while_nothing_was_pushed() -> None:
    scheduler = Scheduler(limits())
    add(scheduler)
    assert scheduler.schedule() is None
    assert not scheduler.ready


def test_a_push_of_nothing_is_nothing() -> None:
    scheduler = Scheduler(limits())
    push(scheduler, add(scheduler), ids(), 0.0)
    assert scheduler.pending == 0
    assert scheduler.schedule() is None


def test_a_lone_element_goes_at_once() -> None:
    scheduler = Scheduler(limits())
    session = add(scheduler, pending=1)
    batch = schedule(scheduler)
    assert (slots_of(batch), batch.counts.tolist(), batch.chunk) == (slots([session]), [1], 1)


def test_a_chunk_joins_what_was_pushed_at_different_times() -> None:
    scheduler = Scheduler(limits(chunk=3))
    session = add(scheduler, 1)
    before = schedule(scheduler)
    push(scheduler, session, ids(1, 2), 10.0)
    push(scheduler, session, ids(3, 4), 11.0)
    complete(scheduler, before)
    batch = schedule(scheduler)
    assert batch.elements.tolist() == [1, 2, 3]
    assert batch.times.tolist() == [10.0, 10.0, 11.0]
    complete(scheduler, batch)
    rest = schedule(scheduler)
    assert (rest.elements.tolist(), rest.times.tolist()) == ([4], [11.0])


def test_what_is_pushed_while_a_session_waits_comes_along() -> None:
    scheduler = Scheduler(limits())
    session = add(scheduler)
    push(scheduler, session, ids(1, 2), 10.0)
    push(scheduler, session, ids(3), 11.0)
    assert schedule(scheduler).elements.tolist() == [1, 2, 3]


def test_sessions_of_different_length_share_a_ragged_step() -> None:
    scheduler = Scheduler(limits())
    for pending in (4, 5, 7):
        add(scheduler, pending)
    assert schedule(scheduler).counts.tolist() == [4, 5, 7]


def test_sessions_of_different_length_share_an_equal_step_with_equal_counts() -> None:
    scheduler = Scheduler(limits(chunking=Chunking.EQUAL))
    for pending in (4, 5, 7):
        add(scheduler, pending)
    assert schedule(scheduler).counts.tolist() == [4, 4, 4]


def test_without_a_time_axis_each_session_gives_one_element() -> None:
    scheduler = Scheduler(limits(chunking=Chunking.SINGLE))
    for pending in (1, 5, 100):
        add(scheduler, pending)
    assert schedule(scheduler).counts.tolist() == [1, 1, 1]


def test_the_element_budget_counts_the_padding() -> None:
    scheduler = Scheduler(limits(elements=20))
    for pending in (7, 6, 7):
        add(scheduler, pending)
    # The third row would make it 3 x 7.
    assert schedule(scheduler).counts.tolist() == [7, 6]


def test_a_chunk_is_never_longer_than_the_budget() -> None:
    scheduler = Scheduler(limits(elements=5, chunk=16))
    add(scheduler, 100)
    assert schedule(scheduler).counts.tolist() == [5]


@pytest.mark.parametrize(("pending", "rows"), [(1, 4), (5, 4), (16, 2)])
def test_enough_sessions_with_like_queues_fill_a_step(pending: int, rows: int) -> None:
    scheduler = Scheduler(limits(rows=4, elements=32, chunk=16))
    for _ in range(rows):
        assert not scheduler.full
        add(scheduler, pending)
    assert scheduler.full
    assert len(schedule(scheduler)) == rows
    assert not scheduler.full


def test_as_many_as_the_last_step_has_fill_the_next() -> None:
    scheduler = Scheduler(limits(rows=8))
    for _ in range(2):
        add(scheduler, 1)
    schedule(scheduler)
    add(scheduler, 1)
    assert not scheduler.full
    add(scheduler, 1)
    assert scheduler.full


def slow(milliseconds: float, *, rows: int = 8) -> Scheduler:
    """One with five sessions, of whose elements each takes so long."""
    scheduler = Scheduler(limits(rows=rows), lambda rows, chunk: rows * chunk * milliseconds / 1e3)
    for _ in range(5):
        add(scheduler, 1)
    return scheduler


def test_a_step_that_takes_long_is_divided_if_the_model_was_idle() -> None:
    scheduler = slow(0.5)
    first = scheduler.schedule(idle=True)
    assert first is not None
    assert len(first) == 3
    add(scheduler, 1)
    assert scheduler.full
    assert len(schedule(scheduler)) == 3


@pytest.mark.parametrize("milliseconds", [0.1, 4.0])
def test_a_short_step_is_not_divided_nor_a_very_long_one(milliseconds: float) -> None:
    batch = slow(milliseconds).schedule(idle=True)
    assert batch is not None
    assert len(batch) == 5


def test_a_step_is_not_divided_while_others_run_or_wait() -> None:
    assert len(schedule(slow(0.5))) == 5
    batch = slow(0.5, rows=4).schedule(idle=True)
    assert batch is not None
    assert len(batch) == 4


def test_a_session_in_a_step_is_in_no_other() -> None:
    scheduler = Scheduler(limits(chunk=2))
    session = add(scheduler, 5)
    batch = schedule(scheduler)
    push(scheduler, session, ids(1), 0.0)
    assert scheduler.schedule() is None
    complete(scheduler, batch)
    assert slots_of(schedule(scheduler)) == slots([session])


def test_sessions_of_one_length_take_turns() -> None:
    scheduler = Scheduler(limits(rows=2, chunk=1))
    box = outbox()
    sessions = [add(scheduler, 3, box) for _ in range(5)]
    order: list[Session] = []
    for _ in range(5):
        batch = schedule(scheduler)
        order += scheduler.lifecycle.of(slots_of(batch))
        complete(scheduler, batch)
    assert order == [*sessions, *sessions]


@given(
    bulk=st.lists(st.integers(2, 5_000), min_size=1, max_size=12),
    arrivals=st.lists(st.integers(0, 6), min_size=1, max_size=10),
    rows=st.integers(1, 8),
    chunk=st.integers(2, 64),
    chunking=st.sampled_from([Chunking.RAGGED, Chunking.EQUAL]),
)
def test_a_lone_element_waits_for_one_step_of_each_other_line_at_most(
    bulk: list[int], arrivals: list[int], rows: int, chunk: int, chunking: Chunking
) -> None:
    steps = limits(rows=rows, elements=10**6, chunk=chunk, chunking=chunking)
    lines = chunk.bit_length()
    scheduler = Scheduler(steps)
    busy = [add(scheduler, pending) for pending in bulk]
    single = add(scheduler)
    for steps_before in arrivals:
        for _ in range(steps_before):
            step(scheduler, refill=busy)
        push(scheduler, single, ids(1), 0.0)
        waited = 1
        while single.slot.index not in slots_of(step(scheduler, refill=busy)):
            waited += 1
        assert waited <= lines


@pytest.mark.parametrize("chunking", [Chunking.RAGGED, Chunking.EQUAL])
def test_lone_elements_without_end_delay_a_long_push_by_one_step_at_most(
    chunking: Chunking,
) -> None:
    scheduler = Scheduler(limits(rows=2, chunk=16, chunking=chunking))
    singles = [add(scheduler, pending=1) for _ in range(8)]
    long = add(scheduler, pending=200)
    steps = [0]
    while long.pending:
        batch = schedule(scheduler)
        complete(scheduler, batch)
        for session in singles:
            if not session.pending:
                push(scheduler, session, ids(1), 0.0)
        if long.slot.index in slots_of(batch):
            steps.append(0)
        else:
            steps[-1] += 1
    assert max(steps) <= 1


def step(scheduler: Scheduler, refill: list[Session]) -> Batch:
    """One step; sessions that would fall into the line of single elements get more."""
    batch = schedule(scheduler)
    for session in refill:
        if session.pending < 2:
            push(scheduler, session, np.zeros(200, np.int64), 0.0)
    complete(scheduler, batch)
    return batch


def test_a_full_outbox_holds_its_sessions_and_nobody_elses() -> None:
    scheduler = Scheduler(limits())
    full = outbox(limit=0)
    held, other = add(scheduler, 1, full), add(scheduler, 1)
    assert slots_of(schedule(scheduler)) == slots([other])
    assert scheduler.schedule() is None
    full.limit = 1
    scheduler.release(full)
    assert slots_of(schedule(scheduler)) == slots([held])


def test_a_session_that_is_held_twice_goes_on_once() -> None:
    scheduler = Scheduler(limits())
    full = outbox(limit=0)
    session = add(scheduler, 1, full)
    for _ in range(3):
        assert scheduler.schedule() is None
        push(scheduler, session, ids(1), 0.0)
        scheduler.release(full)
    full.limit = 1
    assert slots_of(schedule(scheduler)) == slots([session])
    assert scheduler.schedule() is None


def test_a_session_that_ended_while_it_was_held_stays_away() -> None:
    scheduler = Scheduler(limits())
    full = outbox(limit=0)
    session = add(scheduler, 1, full)
    assert scheduler.schedule() is None
    scheduler.abort(session)
    full.limit = 1
    scheduler.release(full)
    assert scheduler.schedule() is None


def test_a_close_waits_for_what_was_pushed() -> None:
    scheduler = Scheduler(limits(chunk=1))
    session = add(scheduler, 2)
    assert not scheduler.close(session)
    assert complete(scheduler, schedule(scheduler)) == []
    assert complete(scheduler, schedule(scheduler)) == [session]
    assert session.ended is FINISHED
    assert scheduler.slots == 0


def test_a_close_waits_for_the_step_that_runs() -> None:
    scheduler = Scheduler(limits())
    session = add(scheduler, 1)
    batch = schedule(scheduler)
    assert not scheduler.close(session)
    assert complete(scheduler, batch) == [session]


def test_a_close_with_nothing_to_answer_ends_at_once() -> None:
    scheduler = Scheduler(limits())
    assert scheduler.close(add(scheduler))


def test_the_first_ending_stands() -> None:
    scheduler = Scheduler(limits())
    session = add(scheduler, 1)
    scheduler.close(session, INVALID)
    scheduler.close(session)
    complete(scheduler, schedule(scheduler))
    scheduler.abort(session)
    assert session.ended is INVALID


@pytest.mark.parametrize("finish", [complete, lambda s, b: fail(s, b)])
def test_a_slot_is_not_handed_on_while_a_step_still_writes_to_it(
    finish: Callable[[Scheduler, Batch], list[Session]],
) -> None:
    scheduler = Scheduler(limits())
    gone = add(scheduler, 1)
    batch = schedule(scheduler)
    scheduler.abort(gone)
    assert add(scheduler).slot.index != gone.slot.index
    assert finish(scheduler, batch) == []
    assert add(scheduler).slot.index == gone.slot.index


def test_the_next_user_of_a_slot_begins_from_the_initial_state() -> None:
    scheduler = Scheduler(limits())
    first = add(scheduler, 1)
    scheduler.close(first)
    complete(scheduler, schedule(scheduler))
    second = add(scheduler, 2)
    assert second.slot.index == first.slot.index
    assert schedule(scheduler).fresh == [0]


def test_only_the_first_step_of_a_session_is_fresh() -> None:
    scheduler = Scheduler(limits(chunk=1))
    add(scheduler, 2)
    batch = schedule(scheduler)
    complete(scheduler, batch)
    assert (batch.fresh, schedule(scheduler).fresh) == ([0], [])


def test_a_failed_step_ends_its_sessions_and_no_others() -> None:
    scheduler = Scheduler(limits(rows=2))
    first, second, other = (add(scheduler, 1) for _ in range(3))
    assert fail(scheduler, schedule(scheduler)) == [first, second]
    assert (first.ended, second.ended, other.ended) == (INVALID, INVALID, None)
    assert slots_of(schedule(scheduler)) == slots([other])
