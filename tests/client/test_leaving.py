"""Loops that are left, sources that block, threads that are interrupted."""

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from types import FrameType

import pytest

import elman
from tests.client.fake_server import FakeServer


@pytest.fixture
def threads(server: FakeServer) -> Iterator[elman.Client]:
    with elman.connect(server.target, timeout=10) as client:
        yield client


def test_closing_a_stream_ends_a_map_whose_source_blocks(threads: elman.Client) -> None:
    stream = threads.stream("letters")
    started, moved = threading.Event(), threading.Event()
    ended: list[object] = []

    def source() -> Iterator[str]:
        started.set()
        moved.wait()
        yield "a"

    def read() -> None:
        try:
            ended.extend(stream.map(source()))
        except elman.ElmanError as error:
            ended.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    started.wait()
    stream.close()
    reader.join(10)
    assert not reader.is_alive()
    assert isinstance(ended[0], elman.SessionClosed)
    moved.set()


def test_loops_that_were_left_are_collected_in_the_middle_of_anything(
    threads: elman.Client,
) -> None:
    """Their finalisers run wherever a collection does: with every few allocations here."""

    class Cycle:
        def __init__(self, loop: Iterator[elman.Prediction]) -> None:
            self.loop, self.own = loop, self

    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        with threads.stream("letters") as stream:
            for _ in range(200):
                cycle = Cycle(stream.map("ab"))
                next(cycle.loop)
                del cycle
                stream.step("c")
    finally:
        gc.set_threshold(*thresholds)


class Interrupt(BaseException):
    pass


def test_an_interrupted_thread_leaves_the_client_usable(threads: elman.Client) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupt

    # The model is known from here on: what asks for it is gRPC, which is not to be interrupted
    # while it holds its locks.
    with threads.stream("letters") as stream:
        stream.step("a")
    own, before = threading.get_ident(), signal.signal(signal.SIGUSR1, interrupt)
    try:
        for turn in range(30):
            # No alarm, which is what ends a test that hangs.
            kill = threading.Timer(
                0.002 + 0.0001 * turn, lambda: signal.pthread_kill(own, signal.SIGUSR1)
            )
            with pytest.raises(Interrupt):
                kill.start()
                with threads.stream("letters") as stream:
                    while True:
                        stream.step("a")
            kill.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    with threads.stream("letters") as stream:
        assert stream.step("a").position == 0


def interrupted_at(chance: int, work: Callable[[], object]) -> bool:
    """Runs `work` until the `chance`-th time that a signal could interrupt it: Python looks for one
    whenever a function begins or C code returns. False if it was done before."""
    left = chance

    def look(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        if event in ("call", "c_return") and frame.f_code is not look.__code__:
            left -= 1
            if not left:
                raise Interrupt

    sys.setprofile(look)
    try:
        work()
    except Interrupt:
        pass
    finally:
        sys.setprofile(None)
    return left <= 0


# One that comes while a generator is finalised is told and ignored by Python itself.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_anywhere_leaves_the_client_usable(threads: elman.Client) -> None:
    def work() -> None:
        with threads.stream("letters") as stream:
            stream.step("a")

    work()
    for chance in count(1):
        if not interrupted_at(chance, work):
            break
        with threads.stream("letters") as stream:
            assert stream.step("a").position == 0
    assert chance > 100


def test_answers_may_be_larger_than_what_the_client_sends(server: FakeServer) -> None:
    with (
        elman.connect(server.target, max_message_bytes=4096) as client,
        client.stream("letters") as stream,
    ):
        text = "abc" * 5000
        assert len(list(stream.map(text))) == len(text)


@pytest.mark.parametrize("elements", [None, 5])
def test_what_is_no_iterable_is_refused_at_the_call(
    threads: elman.Client, elements: object
) -> None:
    with threads.stream("letters") as stream, pytest.raises(elman.InvalidElement, match="elements"):
        stream.map(elements)
