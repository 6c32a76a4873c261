"""However much a frame holds, others have their turns while it is taken and answered."""

import asyncio
import gc
import pickle
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from elman.v1 import inference_pb2 as pb
from tests.server.frontend.harness import LocalServer
from tests.stepmodels import ALPHABET

MANY = 60_000
LONGEST = 0.1
"""CPU seconds of one iteration of the event loop, of which Python's garbage collector and reading
the message itself take the most. What a frame costs as a whole is 0.2 to 2 s."""


class Iterations:
    """The CPU time of this thread's loop from one iteration to the next."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = time.thread_time()
        self._over = False

    def look(self) -> None:
        now = time.thread_time()
        self.longest = max(self.longest, now - self._last)
        self._last = now
        if not self._over:
            asyncio.get_running_loop().call_soon(self.look)

    def stop(self) -> None:
        self._over = True


@asynccontextmanager
async def watched() -> AsyncIterator[Iterations]:
    iterations = Iterations()
    iterations.look()
    try:
        yield iterations
    finally:
        iterations.stop()


def opens() -> pb.StreamRequest:
    return pb.StreamRequest(opens=[pb.Open(session=number) for number in range(1, MANY)])


def refused_opens() -> pb.StreamRequest:
    none = [pb.OutputRequest(name="none")]
    return pb.StreamRequest(opens=[pb.Open(session=n, outputs=none) for n in range(1, MANY)])


def opens_of_different_outputs() -> pb.StreamRequest:
    return pb.StreamRequest(
        opens=[
            pb.Open(
                session=number,
                outputs=[
                    pb.OutputRequest(name="next", form=pb.FORM_TOP, k=1 + (7 * number + each) % 29)
                    for each in range(1 + number % 60)
                ],
            )
            for number in range(1, 4000)
        ]
    )


def forged_tickets() -> pb.StreamRequest:
    ticket = b"\x01" + b"x" * 48
    return pb.StreamRequest(opens=[pb.Open(session=n, ticket=ticket) for n in range(1, MANY)])


def closes_of_none() -> pb.StreamRequest:
    return pb.StreamRequest(closes=range(2**32 - MANY, 2**32))


def pushes_to_none() -> pb.StreamRequest:
    return pb.StreamRequest(push=pb.Push(sessions=range(2**32 - MANY, 2**32), text="a" * MANY))


def pushes_of_nothing() -> pb.StreamRequest:
    return pb.StreamRequest(push=pb.Push(sessions=[0] * MANY, counts=[0] * MANY, text=""))


def single_pushes() -> pb.StreamRequest:
    return pb.StreamRequest(push=pb.Push(sessions=[0] * MANY, text="a" * MANY))


def tickets_of_one() -> pb.StreamRequest:
    return pb.StreamRequest(tickets=[0] * MANY)


def a_long_push() -> pb.StreamRequest:
    return pb.StreamRequest(push=pb.Push(sessions=[0], text=ALPHABET * 20_000))


def a_long_push_with_one_wrong_element() -> pb.StreamRequest:
    return pb.StreamRequest(push=pb.Push(sessions=[0], text=ALPHABET * 100_000 + "!"))


def a_push_of_the_wrong_kind() -> pb.StreamRequest:
    return pb.StreamRequest(push=pb.Push(sessions=[0] * MANY, raw=b"a" * MANY))


@pytest.mark.parametrize(
    "fat",
    [
        opens,
        refused_opens,
        opens_of_different_outputs,
        forged_tickets,
        closes_of_none,
        pushes_to_none,
        pushes_of_nothing,
        single_pushes,
        tickets_of_one,
        a_long_push,
        a_long_push_with_one_wrong_element,
        a_push_of_the_wrong_kind,
    ],
)
@pytest.mark.parametrize("how", ["stays", "leaves"])
async def test_no_frame_takes_the_loop_for_itself(
    server: LocalServer, fat: Callable[[], pb.StreamRequest], how: str, tmp_path: Path
) -> None:
    first = pb.StreamRequest(model="letters", opens=[pb.Open(session=0)])
    frames = tmp_path / "frames"
    frames.write_bytes(pickle.dumps([first.SerializeToString(), fat().SerializeToString()]))
    gc.collect()
    gc.freeze()
    program = [sys.executable, Path(__file__).with_name("fatclient.py"), server.target, frames, how]
    async with watched() as iterations:
        client = await asyncio.create_subprocess_exec(*map(str, program))
        assert await client.wait() == 0
        await server.until(lambda: not server.admission.sessions)
    assert iterations.longest < LONGEST
