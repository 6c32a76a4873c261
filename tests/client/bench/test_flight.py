"""An open loop keeps few frames under way, whatever order their elements are answered in."""

import asyncio

from elman.bench.flight import LIMIT, Flight


def test_it_is_full_until_as_many_elements_were_answered_as_the_oldest_frame_ended_with() -> None:
    flight = Flight()
    full = []
    for number in range(1, LIMIT + 1):
        full.append(flight.is_full)
        flight.start(10 * number)
    for answered in (0, 9, 1):
        flight.land(answered)
        full.append(flight.is_full)
    assert full == [*[False] * LIMIT, True, True, False]
    assert flight.answered == 10


def test_one_answer_may_end_several_frames() -> None:
    flight = Flight()
    flight.start(1)
    flight.start(2)
    flight.land(2)
    flight.start(3)
    assert not flight.is_full


async def test_whoever_waits_hears_of_the_next_answer_and_not_of_the_last() -> None:
    flight = Flight()
    flight.start(2)
    flight.land(1)
    waiting = asyncio.create_task(flight.changed())
    await asyncio.sleep(0)
    assert not waiting.done()
    flight.land(1)
    await asyncio.wait_for(waiting, 5)
