"""Sessions that begin from their contexts: in which order, how many together, and what waits."""

from collections.abc import Callable

import pytest

from elman_server.engine.jobs.batch import Batch
from elman_server.engine.jobs.init import InitJob
from elman_server.engine.limits import Chunking, StepLimits
from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.scheduler import Scheduler
from elman_server.engine.sessions.ending import FINISHED, Ending, EndReason
from elman_server.engine.sessions.phase import Phase
from elman_server.engine.sessions.request import OpenRequest
from elman_server.engine.sessions.session import Session
from tests.server.fakes import FakeSelection, complete, ids, push, seed, slots, slots_of

SELECTION = FakeSelection()
FAILED = Ending(reason=EndReason.STEP_FAILED, message="the beginning failed")


def scheduler(*, most: int = 4) -> Scheduler:
    return Scheduler(
        StepLimits(
            max_batch_size=4,
            max_step_elements=64,
            max_chunk=16,
            chunking=Chunking.RAGGED,
            max_init_batch_size=most,
        )
    )


@pytest.fixture
def box() -> Outbox:
    return Outbox(limit=float("inf"), notify=lambda: None)


def add(to: Scheduler, box: Outbox, number: int | None = None, pending: int = 0) -> Session:
    """With contexts if it has a number."""
    contexts = None if number is None else seed(number)
    session = to.add(
        OpenRequest(number=0, outbox=box, selection=SELECTION, initial_state=contexts), id=""
    )
    push(to, session, ids(*range(pending)), 0.0)
    return session


def begin(to: Scheduler) -> InitJob:
    beginning = to.schedule()
    assert isinstance(beginning, InitJob)
    return beginning


def begun(to: Scheduler, beginning: InitJob) -> None:
    to.lifecycle.initialized(beginning.slots)


def step(to: Scheduler) -> Batch:
    batch = to.schedule()
    assert isinstance(batch, Batch)
    return batch


def test_sessions_begin_together_in_the_order_of_their_opens(box: Outbox) -> None:
    tested = scheduler(most=2)
    first, second, third = (add(tested, box, number) for number in (1, 2, 3))
    beginning = begin(tested)
    assert slots_of(beginning) == slots([first, second])
    assert beginning.slots == [first.slot.index, second.slot.index]
    assert beginning.contexts == [seed(1), seed(2)]
    assert tested.ready
    assert slots_of(begin(tested)) == slots([third])
    assert tested.schedule() is None


def test_no_step_takes_a_session_that_has_not_begun(box: Outbox) -> None:
    tested = scheduler()
    session = add(tested, box, 1, pending=2)
    beginning = begin(tested)
    push(tested, session, ids(7), 0.0)
    assert tested.schedule() is None
    begun(tested, beginning)
    batch = step(tested)
    assert (slots_of(batch), batch.counts.tolist()) == (slots([session]), [3])


def test_a_session_that_has_begun_is_not_fresh(box: Outbox) -> None:
    tested = scheduler()
    conditioned, plain = add(tested, box, 1, pending=1), add(tested, box, pending=1)
    plain_step = step(tested)
    begun(tested, begin(tested))
    assert (slots_of(plain_step), plain_step.fresh) == (slots([plain]), [0])
    batch = step(tested)
    assert (slots_of(batch), batch.fresh) == (slots([conditioned]), [])


def test_beginnings_and_steps_take_turns(box: Outbox) -> None:
    tested = scheduler(most=1)
    busy = add(tested, box, pending=1)
    for number in range(4):
        add(tested, box, number)
    kinds = []
    for _ in range(8):
        work = tested.schedule()
        kinds.append(type(work))
        if isinstance(work, Batch):
            complete(tested, work)
            push(tested, busy, ids(1), 0.0)
        elif isinstance(work, InitJob):
            begun(tested, work)
    assert kinds == [Batch, InitJob] * 4


def test_a_full_outbox_keeps_nobody_from_beginning(box: Outbox) -> None:
    tested = scheduler()
    box.limit = 0
    session = add(tested, box, 1, pending=1)
    begun(tested, begin(tested))
    assert tested.schedule() is None
    box.limit = 1
    tested.release(box)
    assert slots_of(step(tested)) == slots([session])


def test_contexts_are_kept_until_the_session_has_begun(box: Outbox) -> None:
    tested = scheduler()
    session = add(tested, box, 1)
    assert (session.phase, box.contexts_nbytes) == (Phase.INIT_DUE, 8)
    beginning = begin(tested)
    assert (session.phase, box.contexts_nbytes) == (Phase.INITIALIZING, 8)
    begun(tested, beginning)
    assert (session.phase, box.contexts_nbytes) == (Phase.IDLE, 0)


@pytest.mark.parametrize("end", [Scheduler.abort, Scheduler.close])
def test_a_session_that_ends_before_it_begins_lets_go_of_everything(
    end: Callable[[Scheduler, Session], object], box: Outbox
) -> None:
    tested = scheduler()
    session = add(tested, box, 1)
    end(tested, session)
    assert (tested.context_nbytes, box.contexts_nbytes, tested.slots) == (0, 0, 0)
    assert tested.schedule() is None


def test_a_session_that_ends_while_it_begins_keeps_its_slot_until_then(box: Outbox) -> None:
    tested = scheduler()
    session = add(tested, box, 1)
    beginning = begin(tested)
    assert tested.close(session)
    assert session.ended is FINISHED
    assert tested.slots == 1
    begun(tested, beginning)
    assert (tested.slots, box.contexts_nbytes) == (0, 0)


def test_a_close_waits_for_elements_of_a_session_that_has_not_begun(box: Outbox) -> None:
    tested = scheduler()
    session = add(tested, box, 1, pending=1)
    assert not tested.close(session)
    begun(tested, begin(tested))
    assert complete(tested, step(tested)) == [session]


def test_a_beginning_that_fails_ends_its_sessions_and_no_others(box: Outbox) -> None:
    tested = scheduler(most=2)
    gone, failing, other = (add(tested, box, number, pending=1) for number in (1, 2, 3))
    beginning = begin(tested)
    tested.abort(gone)
    assert tested.lifecycle.fail(beginning.slots, FAILED) == [failing]
    assert (failing.ended, other.ended) == (FAILED, None)
    assert (tested.slots, box.contexts_nbytes) == (1, 8)
    begun(tested, begin(tested))
    assert slots_of(step(tested)) == slots([other])


def test_a_part_of_a_beginning_holds_some_of_its_sessions(box: Outbox) -> None:
    tested = scheduler()
    sessions = [add(tested, box, number) for number in range(4)]
    part = begin(tested).part(1, 3)
    assert slots_of(part) == slots(sessions[1:3])
    assert part.slots == [session.slot.index for session in sessions[1:3]]
    assert part.contexts == [seed(1), seed(2)]
