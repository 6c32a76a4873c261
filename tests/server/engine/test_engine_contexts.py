"""The asyncio shell with sessions that begin from their contexts."""

import asyncio

import pytest

from elman_server.engine.jobs.init import InitJob
from elman_server.engine.sessions.ending import Ending, EndReason
from elman_server.errors import Overloaded
from tests.server.engine.shell import (
    ON_THE_THREAD,
    Caller,
    FailingRunner,
    GatedRunner,
    Serve,
    both,
)
from tests.server.fakes import predicted, seed, slots, slots_of


@both
async def test_a_session_begins_from_its_contexts(serve: Serve, step_seconds: float) -> None:
    served = serve(step_seconds=step_seconds)
    caller = Caller(served.engine)
    sessions = {caller.open(seed(number)): number for number in range(100, 120)}
    for session, number in sessions.items():
        caller.push(session, number, 7)
    await asyncio.sleep(0)
    for session in sessions:
        caller.push(session, 8)
        served.engine.close(session)
    await caller.all_ended()
    assert caller.answers == {
        session: predicted([number, 7, 8], number) for session, number in sessions.items()
    }
    assert caller.outbox.contexts_nbytes == 0


async def test_it_begins_at_its_open_and_not_with_its_first_element(serve: Serve) -> None:
    runner = GatedRunner()
    served = serve(runner, step_seconds=ON_THE_THREAD)
    caller = Caller(served.engine)
    first = caller.open(seed(1))
    beginning = await runner.started()
    assert isinstance(beginning, InitJob)
    assert slots_of(beginning) == slots([first])
    assert caller.outbox.contexts_nbytes == 8
    later = [caller.open(seed(2)), caller.open(seed(3))]
    assert caller.outbox.contexts_nbytes == 24
    runner.go_on()
    assert slots_of(await runner.started()) == slots(later)
    runner.go_on()
    await caller.until(lambda: not caller.outbox.contexts_nbytes)


async def test_its_elements_wait_until_it_has_begun(serve: Serve) -> None:
    runner = GatedRunner()
    served = serve(runner, step_seconds=ON_THE_THREAD)
    caller = Caller(served.engine)
    plain, conditioned = caller.open(), caller.open(seed(1))
    await runner.started()
    caller.push(conditioned, 1)
    caller.push(plain, 2)
    runner.go_on()
    assert slots_of(await runner.started()) == slots([plain, conditioned])
    runner.go_on()
    await caller.until(lambda: all(caller.answers.values()))
    assert caller.answers == {plain: predicted([2]), conditioned: predicted([1], 1)}


@both
async def test_contexts_that_the_model_fails_on_end_their_session_alone(
    serve: Serve, step_seconds: float
) -> None:
    served = serve(FailingRunner(13), step_seconds=step_seconds)
    caller = Caller(served.engine)
    sessions = [caller.open(seed(number)) for number in range(10, 18)]
    for session in sessions:
        caller.push(session, 1)
        served.engine.close(session)
    await caller.all_ended()
    for number, session in enumerate(sessions, 10):
        if number == 13:
            assert caller.answers[session] == []
            assert caller.endings[session] == Ending(
                reason=EndReason.STEP_FAILED,
                message="the model failed to make the session's state from its contexts",
            )
        else:
            assert caller.answers[session] == predicted([1], number)
            assert caller.endings[session].reason is EndReason.FINISHED
    assert caller.outbox.contexts_nbytes == 0


async def test_a_session_that_ends_while_it_begins_leaves_its_slot_only_after(
    serve: Serve,
) -> None:
    runner = GatedRunner()
    served = serve(runner, step_seconds=ON_THE_THREAD)
    caller = Caller(served.engine)
    gone, closed = caller.open(seed(1)), caller.open(seed(2))
    await runner.started()
    served.engine.abort(gone)
    served.engine.close(closed)
    heir = caller.open(seed(3))
    assert (served.engine.sessions, served.engine.slots) == (1, 3)
    caller.push(heir, 5)
    for _ in range(2):
        runner.go_on()
        await runner.started()
    runner.go_on()
    await caller.until(lambda: bool(caller.answers[heir]))
    assert caller.answers[heir] == predicted([5], 3)
    assert served.engine.slots == 1
    assert caller.outbox.contexts_nbytes == 0


async def test_a_session_that_ends_before_it_begins_does_not_begin(serve: Serve) -> None:
    runner = GatedRunner()
    served = serve(runner, step_seconds=ON_THE_THREAD)
    caller = Caller(served.engine)
    first = caller.open(seed(1))
    await runner.started()
    gone, here = caller.open(seed(2)), caller.open(seed(3))
    served.engine.abort(gone)
    assert caller.outbox.contexts_nbytes == 16
    runner.go_on()
    assert slots_of(await runner.started()) == slots([here])
    runner.go_on()
    await caller.until(lambda: not caller.outbox.contexts_nbytes)
    assert first.ended is here.ended is None


async def test_beginnings_are_no_steps(serve: Serve) -> None:
    served = serve()
    caller = Caller(served.engine)
    session = caller.open(seed(1))
    caller.push(session, 1)
    await caller.answered(session, 1)
    assert [step.batch_size for step in served.recorder.steps] == [1]


async def test_contexts_are_held_for_so_many_sessions_and_no_more(serve: Serve) -> None:
    runner = GatedRunner()
    served = serve(runner, step_seconds=ON_THE_THREAD, max_context_bytes=20)
    caller = Caller(served.engine)
    caller.open(seed(1))
    await runner.started()
    caller.open(seed(2))
    with pytest.raises(Overloaded, match="max_context_bytes is 20"):
        caller.open(seed(3))
    caller.open()  # without contexts
    runner.go_on()
    await runner.started()
    caller.open(seed(3))
    for _ in range(2):
        runner.go_on()
    await caller.until(lambda: not served.engine.context_nbytes)
    assert served.engine.sessions == 4
