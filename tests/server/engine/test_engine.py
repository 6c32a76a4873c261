"""The asyncio shell: steps run, callers hear of them, and nothing is left behind."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from elman_server.engine.sessions.ending import EndReason
from elman_server.engine.sessions.session import Session
from elman_server.errors import Overloaded, ShuttingDown
from tests.server.engine.shell import (
    ON_THE_THREAD,
    STOPPING,
    Caller,
    FailingRunner,
    GatedRunner,
    Serve,
    both,
)
from tests.server.fakes import predicted, slots, slots_of


@both
async def test_predictions_are_those_of_the_session_alone(
    serve: Serve, step_seconds: float
) -> None:
    served = serve(step_seconds=step_seconds)
    caller = Caller(served.engine)
    pushed: dict[Session, list[int]] = {caller.open(): [] for _ in range(20)}
    for turn in range(1, 6):
        for place, (session, elements) in enumerate(pushed.items()):
            new = [100 * place + turn + step for step in range((place + turn) % 7)]
            caller.push(session, *new)
            elements += new
        await asyncio.sleep(0)
    for session in pushed:
        served.engine.close(session)
    await caller.all_ended()
    assert caller.answers == {session: predicted(elements) for session, elements in pushed.items()}
    assert set(served.recorder.ended) == {EndReason.FINISHED}


@both
async def test_a_lone_element_is_answered_without_waiting_for_others(
    serve: Serve, step_seconds: float
) -> None:
    caller = Caller(serve(step_seconds=step_seconds).engine)
    session = caller.open()
    for element in (1, 2, 3):
        caller.push(session, element)
        await caller.answered(session, element)
    assert caller.answers[session] == predicted([1, 2, 3])


async def test_what_arrives_while_a_step_runs_forms_the_next(serve: Serve) -> None:
    runner = GatedRunner()
    served = serve(runner, step_seconds=ON_THE_THREAD)
    caller = Caller(served.engine)
    first, second, third = (caller.open() for _ in range(3))
    caller.push(first, 1)
    assert slots_of(await runner.started()) == slots([first])
    caller.push(second, 2)
    caller.push(third, 3)
    runner.go_on()
    assert slots_of(await runner.started()) == slots([second, third])
    runner.go_on()
    await caller.until(lambda: all(caller.answers.values()))


@both
async def test_a_step_that_fails_ends_its_sessions_and_the_engine_goes_on(
    serve: Serve, step_seconds: float
) -> None:
    served = serve(FailingRunner(13), step_seconds=step_seconds, max_batch_size=1)
    caller = Caller(served.engine)
    lucky, unlucky = caller.open(), caller.open()
    caller.push(lucky, 1)
    caller.push(unlucky, 13)
    await caller.until(lambda: bool(caller.endings) and bool(caller.answers[lucky]))
    caller.push(lucky, 2)
    later = caller.open()
    caller.push(later, 3)
    for session in (lucky, later):
        served.engine.close(session)
    await caller.all_ended()
    assert caller.answers == {lucky: predicted([1, 2]), unlucky: [], later: predicted([3])}
    assert {session: ending.reason for session, ending in caller.endings.items()} == {
        lucky: EndReason.FINISHED,
        unlucky: EndReason.STEP_FAILED,
        later: EndReason.FINISHED,
    }


@both
async def test_a_step_that_fails_on_one_session_ends_it_alone(
    serve: Serve, step_seconds: float
) -> None:
    served = serve(FailingRunner(13), step_seconds=step_seconds, max_batch_size=16)
    caller, other = Caller(served.engine), Caller(served.engine)
    sessions = [(caller if place % 2 else other).open() for place in range(11)]
    for place, session in enumerate(sessions):
        caller.push(session, 1, 13 if place in (0, 4, 5) else 2)
    await caller.until(lambda: len(caller.endings) == 1)
    await other.until(lambda: len(other.endings) == 2)
    for place, session in enumerate(sessions):
        if session.ended is None:
            caller.push(session, place)
            served.engine.close(session)
    await caller.all_ended()
    await other.all_ended()
    answers, endings = caller.answers | other.answers, caller.endings | other.endings
    for place, session in enumerate(sessions):
        failed = place in (0, 4, 5)
        reason = EndReason.STEP_FAILED if failed else EndReason.FINISHED
        assert endings[session].reason is reason
        assert answers[session] == ([] if failed else predicted([1, 2, place]))


async def test_nobody_hears_why_the_runtime_failed_but_that_it_did(serve: Serve) -> None:
    served = serve(FailingRunner(13))
    caller = Caller(served.engine)
    session = caller.open()
    caller.push(session, 13)
    await caller.all_ended()
    assert caller.endings[session].message == (
        "the model failed in a step; the session's state is lost"
    )


async def test_a_session_aborted_in_a_step_gets_nothing_and_its_slot_only_after(
    serve: Serve,
) -> None:
    runner = GatedRunner()
    served = serve(runner, step_seconds=ON_THE_THREAD)
    caller = Caller(served.engine)
    gone, here = caller.open(), caller.open()
    caller.push(gone, 1, 2)
    caller.push(here, 3, 4)
    await runner.started()
    served.engine.abort(gone)
    assert (served.engine.sessions, served.engine.slots) == (1, 2)
    heir = caller.open()
    assert heir.slot.index not in (gone.slot.index, here.slot.index)
    runner.go_on()
    await caller.until(lambda: bool(caller.answers[here]))
    assert served.engine.slots == 2
    assert caller.answers == {gone: [], here: predicted([3, 4]), heir: []}
    late = caller.open()
    assert late.slot.index == gone.slot.index
    caller.push(late, 5)
    await runner.started()
    runner.go_on()
    await caller.until(lambda: bool(caller.answers[late]))
    assert caller.answers[late] == predicted([5])


async def test_sessions_aborted_in_a_step_that_fails_end_once(serve: Serve) -> None:
    runner = GatedRunner()
    served = serve(runner, step_seconds=ON_THE_THREAD)
    caller = Caller(served.engine)
    gone, here = caller.open(), caller.open()
    caller.push(gone, 1)
    caller.push(here, 2)
    await runner.started()
    served.engine.abort(gone)
    runner.error = RuntimeError("out of luck")
    # Both together, then each alone.
    for _ in range(3):
        runner.go_on()
    await caller.all_ended()
    assert served.recorder.ended == [EndReason.CANCELLED, EndReason.STEP_FAILED]


async def test_a_close_in_a_step_waits_for_its_end(serve: Serve) -> None:
    runner = GatedRunner()
    served = serve(runner, step_seconds=ON_THE_THREAD)
    caller = Caller(served.engine)
    session = caller.open()
    caller.push(session, 1)
    await runner.started()
    served.engine.close(session)
    caller.collect()
    assert caller.endings == {}
    runner.go_on()
    await caller.all_ended()
    assert caller.answers[session] == predicted([1])


async def test_a_caller_that_does_not_read_is_held_and_others_go_on(serve: Serve) -> None:
    served = serve(max_chunk=1)
    lazy, eager = Caller(served.engine, limit=1), Caller(served.engine)
    held, free = lazy.open(), eager.open()
    served.engine.collect(lazy.outbox)
    lazy.push(held, *range(50))
    for element in range(1, 51):
        eager.push(free, element)
        await eager.answered(free, element)
    # One step filled its outbox.
    assert lazy.outbox.pending == served.engine.pending == 49
    served.engine.close(held)
    await lazy.all_ended()
    assert lazy.answers[held] == predicted(range(50))


async def test_a_drain_lets_what_was_pushed_finish(serve: Serve) -> None:
    runner = GatedRunner()
    served = serve(runner, step_seconds=ON_THE_THREAD, max_chunk=2)
    caller = Caller(served.engine)
    busy, idle = caller.open(), caller.open()
    caller.push(busy, 1, 2, 3)
    await runner.started()
    draining = asyncio.create_task(served.engine.drain(STOPPING, grace=30))
    runner.go_on()
    await runner.started()
    assert not draining.done()
    runner.go_on()
    await draining
    await caller.all_ended()
    assert caller.endings == {busy: STOPPING, idle: STOPPING}
    assert caller.answers[busy] == predicted([1, 2, 3])


async def test_a_drain_ends_what_does_not_finish_in_time(serve: Serve) -> None:
    runner = GatedRunner()
    served = serve(runner, step_seconds=ON_THE_THREAD)
    caller = Caller(served.engine)
    session = caller.open()
    caller.push(session, 1)
    await runner.started()
    await served.engine.drain(STOPPING, grace=0.01)
    caller.collect()
    assert caller.endings == {session: STOPPING}
    assert served.admission.sessions == 0
    runner.go_on()


async def test_a_drain_without_sessions_is_over_at_once(serve: Serve) -> None:
    await serve().engine.drain(STOPPING, grace=0)


async def test_a_session_that_was_closed_keeps_its_reason_in_a_drain(serve: Serve) -> None:
    runner = GatedRunner()
    served = serve(runner, step_seconds=ON_THE_THREAD)
    caller = Caller(served.engine)
    session = caller.open()
    caller.push(session, 1)
    await runner.started()
    served.engine.close(session)
    draining = asyncio.create_task(served.engine.drain(STOPPING, grace=30))
    runner.go_on()
    await draining
    await caller.all_ended()
    assert caller.endings[session].reason is EndReason.FINISHED


async def test_refused_sessions_are_told_apart(serve: Serve) -> None:
    served = serve(max_sessions=1)
    caller = Caller(served.engine)
    caller.open()
    with pytest.raises(Overloaded):
        caller.open()
    served.admission.closed = True
    with pytest.raises(ShuttingDown):
        caller.open()
    assert served.recorder.rejected == ["overloaded", "shutdown"]
    assert served.recorder.opened == served.engine.sessions == served.admission.sessions == 1


async def test_session_ids_are_unique(serve: Serve) -> None:
    caller = Caller(serve().engine)
    assert len({caller.open().id for _ in range(100)}) == 100


async def test_ending_a_session_again_changes_nothing(serve: Serve) -> None:
    served = serve()
    caller = Caller(served.engine)
    session = caller.open()
    served.engine.abort(session, STOPPING)
    served.engine.abort(session)
    served.engine.close(session)
    caller.collect()
    assert caller.endings == {session: STOPPING}
    assert served.recorder.ended == [EndReason.SHUTDOWN]
    assert served.admission.sessions == 0


async def test_steps_are_told_with_their_times(serve: Serve) -> None:
    times = iter([10.0, 11.0, 20.0, 20.5])
    served = serve(clock=lambda: next(times))
    caller = Caller(served.engine)
    caller.push(caller.open(), 1, 2)
    caller.push(caller.open(), 3, 4, 5)
    await caller.until(lambda: bool(served.recorder.steps))
    [step] = served.recorder.steps
    assert (step.batch_size, step.answered, step.seconds) == (2, 5, 0.5)
    assert step.queue_delays.tolist() == [10.0, 10.0, 9.0, 9.0, 9.0]


async def turns(count: Callable[[], Awaitable[None]]) -> int:
    """How often the loop ran something while that was awaited."""
    loop = asyncio.get_running_loop()
    ran = 0
    soon = loop.call_soon

    def counted(callback: Callable[..., object], *args: object, **kwargs: object) -> object:
        nonlocal ran
        ran += 1
        return soon(callback, *args, **kwargs)  # type: ignore[arg-type]

    loop.call_soon = counted  # type: ignore[method-assign, assignment]
    try:
        await count()
    finally:
        loop.call_soon = soon  # type: ignore[method-assign]
    return ran


@both
async def test_an_idle_engine_does_nothing(serve: Serve, step_seconds: float) -> None:
    served = serve(step_seconds=step_seconds)
    caller = Caller(served.engine)
    session = caller.open()
    caller.push(session, 1)
    await caller.until(lambda: bool(caller.answers[session]))
    elapsed = asyncio.Event()

    async def wait() -> None:
        asyncio.get_running_loop().call_later(0.05, elapsed.set)
        await elapsed.wait()

    # The timer's own: the one that wakes the waiter.
    assert await turns(wait) == 1


async def test_a_held_caller_does_not_make_the_engine_spin(serve: Serve) -> None:
    served = serve(max_chunk=1)
    lazy = Caller(served.engine, limit=1)
    session = lazy.open()
    served.engine.collect(lazy.outbox)
    lazy.push(session, 1, 2, 3)
    elapsed = asyncio.Event()

    async def wait() -> None:
        asyncio.get_running_loop().call_later(0.05, elapsed.set)
        await elapsed.wait()

    # Beside the timer's own: the turn after the push, and the one that finds it held.
    assert await turns(wait) <= 3
    assert served.engine.pending == 2
