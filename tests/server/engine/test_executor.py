"""No element makes a step take as long as it likes, and none that may does so on the event loop."""

import asyncio
import gc
import threading
import time

import pytest

from elman_server.engine.jobs.batch import Batch
from elman_server.engine.jobs.interrupt import Interrupt
from elman_server.engine.outboxes.delivery import Outputs
from elman_server.engine.sessions.ending import EndReason
from elman_server.errors import ModelUnavailable
from tests.server.engine.shell import ON_THE_THREAD, Caller, GatedRunner, Serve, SlowRunner
from tests.server.fakes import Slots, predicted

SLOW = 13
TIMEOUT = 0.2


async def test_only_the_session_that_takes_too_long_ends(serve: Serve) -> None:
    served = serve(SlowRunner(SLOW), step_seconds=ON_THE_THREAD, step_timeout=TIMEOUT)
    caller = Caller(served.engine)
    sessions = [caller.open() for _ in range(8)]
    for number, session in enumerate(sessions):
        caller.push(session, SLOW if number == 5 else number)
    slow = sessions.pop(5)
    await caller.until(lambda: bool(caller.endings) and all(caller.answers[s] for s in sessions))
    assert caller.endings.keys() == {slow}
    assert caller.endings[slow].reason is EndReason.STEP_FAILED
    assert caller.endings[slow].message == (
        "a step took longer than step_timeout, which is 0.2 s; the session's state is lost"
    )
    for session in sessions:
        caller.push(session, 1)
        await caller.answered(session, 2)
    assert [caller.answers[s] for s in sessions] == [
        predicted([number, 1]) for number in (0, 1, 2, 3, 4, 6, 7)
    ]


async def test_many_that_take_too_long_all_end(serve: Serve) -> None:
    served = serve(SlowRunner(SLOW), step_seconds=ON_THE_THREAD, step_timeout=TIMEOUT)
    caller = Caller(served.engine)
    fast, *slow = [caller.open() for _ in range(4)]
    for session in slow:
        caller.push(session, SLOW)
    caller.push(fast, 1)
    await caller.until(lambda: len(caller.endings) == 3 and len(caller.answers[fast]) == 1)
    assert caller.endings.keys() == set(slow)


async def test_however_many_take_too_long_the_others_wait_for_a_few_runs(serve: Serve) -> None:
    runner = SlowRunner(SLOW)
    served = serve(runner, step_seconds=ON_THE_THREAD, step_timeout=0.05, max_batch_size=64)
    caller = Caller(served.engine)
    slow = [caller.open() for _ in range(32)]
    fast = [caller.open() for _ in range(32)]
    for session in slow:
        caller.push(session, SLOW)
    for session in fast:
        caller.push(session, 1)
    await caller.until(lambda: caller.endings.keys() == set(slow))
    await caller.until(lambda: all(caller.answers[session] for session in fast))
    assert runner.interrupted < 20  # each alone would be 63


async def test_a_pause_of_the_whole_process_is_no_fault_of_the_model(serve: Serve) -> None:
    """As when a container is paused or a machine sleeps: the step goes on where it was."""
    told: list[bool] = []
    paused = 0.0
    runner = GatedRunner()
    served = serve(
        runner,
        step_seconds=ON_THE_THREAD,
        step_timeout=0.05,
        stuck=told.append,
        clock=lambda: time.perf_counter() + paused,
    )
    caller = Caller(served.engine)
    session = caller.open()
    caller.push(session, 1)
    await runner.started()
    paused = 3600.0
    assert runner.interrupt is not None
    while not runner.interrupt.fired:
        await asyncio.sleep(0.001)
    runner.go_on()
    await caller.answered(session, 1)
    assert told == []


async def test_a_step_within_its_time_is_not_ended(serve: Serve) -> None:
    runner = GatedRunner()
    served = serve(runner, step_seconds=ON_THE_THREAD, step_timeout=30.0)
    caller = Caller(served.engine)
    session = caller.open()
    for element in (1, 2, 3):
        caller.push(session, element)
        await runner.started()
        runner.go_on()
        await caller.answered(session, element)
    assert caller.answers[session] == predicted([1, 2, 3])


async def test_a_model_that_hears_no_interrupt_serves_no_more_until_it_comes_back(
    serve: Serve,
) -> None:
    told: list[bool] = []
    runner = SlowRunner(SLOW, deaf=True)
    served = serve(
        runner,
        step_seconds=ON_THE_THREAD,
        step_timeout=TIMEOUT,
        max_batch_size=1,
        stuck=told.append,
    )
    caller = Caller(served.engine)
    slow, other = caller.open(), caller.open()
    caller.push(slow, SLOW)
    caller.push(other, 1)
    await caller.all_ended()
    assert {ending.reason for ending in caller.endings.values()} == {EndReason.STEP_FAILED}
    assert told == [True]
    with pytest.raises(ModelUnavailable, match="does not come to the end of a step"):
        caller.open()
    runner.go_on.set()
    async with asyncio.timeout(30):
        while told != [True, False]:
            await asyncio.sleep(0)
    later = caller.open()
    caller.push(later, 2)
    await caller.answered(later, 1)
    assert caller.answers[later] == predicted([2])


async def test_the_event_loop_goes_on_beside_a_step_that_takes_too_long(serve: Serve) -> None:
    """It is what everybody else waits for."""
    runner = SlowRunner(SLOW, deaf=True)
    caller = Caller(serve(runner, inline=False, step_timeout=30.0).engine)
    slow = caller.open()
    caller.push(slow, SLOW)
    for _ in range(100):
        await asyncio.sleep(0)
    runner.go_on.set()
    await caller.answered(slow, 1)
    assert threading.get_ident() not in runner.ran_on


class Spinner(SlowRunner):
    """Computes for 50 ms where the estimate says that it takes no time."""

    def run(self, *args: object) -> object:  # type: ignore[override]
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
        return super().run(*args)  # type: ignore[arg-type]


async def test_a_model_that_overran_once_never_runs_on_the_event_loop_again(serve: Serve) -> None:
    runner = Spinner(SLOW)
    caller = Caller(serve(runner).engine)
    session = caller.open()
    caller.push(session, 1)
    await caller.answered(session, 1)
    assert runner.ran_on == {threading.get_ident()}
    runner.ran_on.clear()
    caller.push(session, 2)
    await caller.answered(session, 2)
    assert threading.get_ident() not in runner.ran_on


async def test_a_collection_of_garbage_is_no_overrun(serve: Serve) -> None:
    """It takes the longer the more sessions there are."""

    class Collector(SlowRunner):
        def run(self, batch: Batch, interrupt: Interrupt | None = None) -> Outputs:
            time_spent = time.thread_time() + 0.05
            while time.thread_time() < time_spent:
                gc.collect()
            return super().run(batch, interrupt)

    runner = Collector(SLOW)
    caller = Caller(serve(runner).engine)
    session = caller.open()
    for element in (1, 2):
        caller.push(session, element)
        await caller.answered(session, element)
    assert runner.ran_on == {threading.get_ident()}


async def test_room_for_more_sessions_is_not_made_on_the_event_loop(serve: Serve) -> None:
    class Crowded(SlowRunner):
        room = False

        def has_room(self, slots: Slots) -> bool:
            return self.room

    runner = Crowded(SLOW)
    caller = Caller(serve(runner).engine)
    session = caller.open()
    caller.push(session, 1)
    await caller.answered(session, 1)
    assert threading.get_ident() not in runner.ran_on
    runner.room = True
    runner.ran_on.clear()
    caller.push(session, 2)
    await caller.answered(session, 2)
    assert runner.ran_on == {threading.get_ident()}
