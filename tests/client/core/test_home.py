"""A client where it cannot work, and streams that nobody has: over real sockets."""

import asyncio
import copy
import gc
import multiprocessing
import pickle
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import elman
import elman.aio
from elman.v1 import inference_pb2 as pb
from tests.client.conftest import Connect
from tests.client.fake_server import FakeServer


@pytest.fixture
def threads(server: FakeServer) -> Iterator[elman.Client]:
    with elman.connect(server.target) as client:
        yield client


def in_a_child(work: Callable[[], object]) -> str:
    """What it raises in a forked process, or else returns."""
    gc.collect()  # what gRPC left of other tests is not for the child to finalise
    ours, theirs = multiprocessing.Pipe()

    def run() -> None:
        try:
            theirs.send(repr(work()))
        except BaseException as error:
            theirs.send(f"{type(error).__name__}: {error}")

    child = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    try:
        assert ours.poll(30), "it hangs"
        answer: str = ours.recv()
        return answer
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize(
    "use",
    [
        lambda client, stream: client.stream("letters"),
        lambda client, stream: client.predict("letters", "ab"),
        lambda client, stream: client.models(),
        lambda client, stream: client.model("letters"),
        lambda client, stream: stream.step("b"),
        lambda client, stream: stream.push("b"),
        lambda client, stream: next(stream),
        lambda client, stream: next(stream.map("b")),
        lambda client, stream: stream.ticket(),
    ],
)
def test_a_forked_child_is_told_at_once_to_connect_again(
    threads: elman.Client, use: Callable[[elman.Client, elman.Stream], object]
) -> None:
    stream = threads.stream("letters")
    stream.step("a")
    said = in_a_child(lambda: use(threads, stream))
    assert said.startswith("ClientUnusable: this client was connected before a fork"), said
    assert "connect again" in said
    assert stream.step("b").position == 1, "the parent goes on"


def test_a_forked_child_may_close_and_drop_what_it_inherited(
    threads: elman.Client, server: FakeServer
) -> None:
    held = [threads.stream("letters")]

    def leave() -> str:
        with threads, held[0]:
            pass
        held.clear()
        gc.collect()
        return "left"

    assert in_a_child(leave) == "'left'"
    assert held[0].step("a").position == 0
    assert not any(frame.closes for frame in server.frames)


def test_a_fork_while_others_hold_the_locks_does_not_have_the_child_wait(
    threads: elman.Client,
) -> None:
    stream = threads.stream("letters")
    done = threading.Event()

    def step() -> None:
        while not done.is_set():
            stream.step("a")

    worker = threading.Thread(target=step)
    worker.start()
    try:
        for _ in range(10):
            assert "before a fork" in in_a_child(lambda: stream.step("b"))
    finally:
        done.set()
        worker.join()


def test_another_event_loop_is_told_so(server: FakeServer) -> None:
    made: list[Any] = []

    async def make() -> None:
        client = await elman.aio.connect(server.target)
        made.extend([client, await client.stream("letters")])

    async def use(operation: Callable[[], Any]) -> None:
        with pytest.raises(elman.ClientUnusable, match="another event loop"):
            await operation()

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(make())
        client, stream = made

        async def opening() -> None:
            await client.stream("letters")

        for operation in (
            opening,
            client.models,
            lambda: client.predict("letters", "ab"),
            client.close,
            lambda: stream.step("a"),
            lambda: anext(stream),
            stream.close,
        ):
            asyncio.run(use(operation))
        assert loop.run_until_complete(stream.step("a")).position == 0
        loop.run_until_complete(client.close())
    finally:
        loop.close()


def test_neither_clients_nor_streams_are_pickled_or_copied(client: elman.Client) -> None:
    # Behind the interface of threads there is one for asyncio.
    real_client = getattr(client, "_client", client)
    stream = client.stream("letters")
    real_stream = getattr(stream, "_stream", stream)
    for use in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"a Client can't be pickled.*connect in the process"):
            use(real_client)
        with pytest.raises(TypeError, match=r"a Stream can't be pickled.*stream\.ticket\(\)"):
            use(real_stream)


@pytest.mark.parametrize("connect", ["elman.connect", "elman.aio.connect"])
def test_gevent_without_grpcs_patch_is_told_so_and_does_not_hang(connect: str) -> None:
    """A stand-in for gevent: what is asked of it is whether it has patched threads."""
    program = f"""
import sys, types
sys.modules["gevent.monkey"] = types.SimpleNamespace(is_module_patched=lambda name: True)
import elman
try:
    {connect}("127.0.0.1:1", connect_timeout=60)
except elman.ClientUnusable as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert "init_gevent() right after monkey.patch_all()" in done.stdout, done.stderr


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_stream_that_nobody_has_is_closed_with_a_warning(
    client: elman.Client, server: FakeServer
) -> None:
    stream = client.stream("letters")
    stream.step("a")
    number = server.frames[-1].push.sessions[0]
    with pytest.warns(ResourceWarning, match="a stream of 'letters' was never closed"):
        del stream
        gc.collect()
    until(lambda: number in {closed for frame in server.frames for closed in frame.closes})


_LEFT_OPEN = """
import sys, elman
for _ in range(3):
    client = elman.connect(sys.argv[1])
    stream = client.stream("letters")
    stream.push("a")
    stream = client.stream("letters")
    stream.step("a")
"""


def test_a_program_that_closes_nothing_ends(server: FakeServer) -> None:
    for _ in range(3):
        command = [sys.executable, "-X", "dev", "-W", "ignore", "-c", _LEFT_OPEN, server.target]
        ended = subprocess.run(command, timeout=60, capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, "")


def test_a_stream_that_is_collected_while_answers_come_is_closed_though_none_follow(
    server: FakeServer,
) -> None:
    with (
        elman.connect(server.target, connect_timeout=60) as client,
        client.stream("letters") as stream,
    ):
        dropped = [client.stream("letters")]
        multiplexer: Any = stream._session.outbound
        receive = multiplexer.receive

        def collect_and_receive(response: pb.StreamResponse) -> None:
            if response.predictions:
                dropped.clear()
            receive(response)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            multiplexer.receive = collect_and_receive
            stream.push("a")
            until(lambda: any(frame.closes for frame in server.frames))


def test_a_stream_whose_source_blocks_is_closed_when_nobody_has_it(
    client: elman.Client, server: FakeServer
) -> None:
    moved = threading.Event()

    def source() -> Iterator[str]:
        yield "a"
        moved.wait(30)

    if not isinstance(client, elman.Client):
        pytest.skip("in asyncio the source would block the loop")
    with pytest.warns(ResourceWarning, match="never closed"):
        next(client.stream("letters").map(source()))
        gc.collect()
    until(lambda: any(frame.closes for frame in server.frames))
    moved.set()


def test_a_stream_that_was_closed_lost_or_of_a_closed_client_warns_of_nothing(
    connect: Connect, server: FakeServer
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client = connect(server.target)
        for _ in range(3):
            with client.stream("letters") as stream:
                stream.step("a")
        lost = client.stream("letters")
        server.break_rpcs()
        with pytest.raises(elman.SessionLost):
            next(lost)
        left = client.stream("letters")
        client.close()
        del stream, lost, left
        gc.collect()
