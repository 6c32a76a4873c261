"""The compute thread is given the next step while it runs one, if that is full already."""

import asyncio

from tests.server.engine.shell import ON_THE_THREAD, Caller, GatedRunner, Serve
from tests.server.fakes import predicted, slots, slots_of


def gated(serve: Serve, *, max_batch_size: int) -> tuple[GatedRunner, Caller]:
    runner = GatedRunner()
    served = serve(runner, step_seconds=ON_THE_THREAD, max_batch_size=max_batch_size)
    return runner, Caller(served.engine)


async def test_a_full_step_is_taken_while_another_runs(serve: Serve) -> None:
    runner, caller = gated(serve, max_batch_size=2)
    sessions = [caller.open() for _ in range(7)]
    for session in sessions:
        caller.push(session, 1)
    first = await runner.started()
    assert slots_of(first) == slots(sessions[:2])
    # The next one waits for the thread already; a third does not.
    assert caller.engine.pending == 3
    late = caller.open()
    caller.push(late, 2)
    await asyncio.sleep(0)
    assert caller.engine.pending == 4
    for rest in (sessions[2:4], sessions[4:6], [sessions[6], late]):
        runner.go_on()
        assert slots_of(await runner.started()) == slots(rest)
    runner.go_on()
    await caller.until(lambda: all(caller.answers.values()))
    assert caller.answers == {
        **{session: predicted([1]) for session in sessions},
        late: predicted([2]),
    }


async def test_a_step_that_is_not_full_waits_for_company_while_another_runs(serve: Serve) -> None:
    runner, caller = gated(serve, max_batch_size=3)
    sessions = [caller.open() for _ in range(4)]
    for session in sessions:
        caller.push(session, 1)
        await asyncio.sleep(0)
    assert slots_of(await runner.started()) == slots(sessions[:1])
    assert caller.engine.pending == 0
    again = [caller.open() for _ in range(2)]
    for session in again:
        caller.push(session, 2)
    await asyncio.sleep(0)
    assert caller.engine.pending == 2
    for rest in (sessions[1:], again):
        runner.go_on()
        assert slots_of(await runner.started()) == slots(rest)
    runner.go_on()
    await caller.until(lambda: all(caller.answers.values()))
