"""Calls and connections in numbers that no user has, and frames that mean nothing.

pytest -s tests/abuse/test_calls.py
"""

import contextlib
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from elman.v1 import inference_pb2 as pb
from tests.abuse.comparison import Comparison
from tests.abuse.http2 import STREAM, Call, Connection, packed
from tests.serverprocess import ServerProcess

LONG = pytest.mark.slow
BURST = 3000
PATIENCE_SECONDS = 20
"""For a burst to be answered, on a machine that is slow or busy."""
UNAVAILABLE, RESOURCE_EXHAUSTED = 14, 8
REFUSED_STREAM = 7
"""An HTTP/2 error code: the server has not looked at the call, and it may be made again."""
ONE = packed(
    pb.StreamRequest(
        model="sentiment", opens=[pb.Open(session=0)], push=pb.Push(sessions=[0], text="a")
    )
)


def _outcome(call: Call) -> str:
    if call.messages():
        return "answered"
    if call.status in (UNAVAILABLE, RESOURCE_EXHAUSTED) or call.reset == REFUSED_STREAM:
        return "refused"
    return f"status {call.status}, reset {call.reset}, {call.message}"


@pytest.mark.parametrize("connections", [30, pytest.param(300, marks=LONG)])
def test_of_calls_that_come_all_at_once_each_is_answered_or_refused(
    server: ServerProcess, connections: int
) -> None:
    def counted() -> float:
        """Calls that metrics know, served or not."""
        started = server.metric("grpc_server_started_total", grpc_method="Stream")
        return started + server.metric("elman_calls_refused_total")

    def bout() -> str:
        before = counted()
        with ExitStack() as stack:
            all_ = [stack.enter_context(Connection(server.target)) for _ in range(connections)]
            calls = [all_[number % connections].open(STREAM, first=ONE) for number in range(BURST)]
            end = monotonic() + PATIENCE_SECONDS
            while monotonic() < end and not all(call.received or call.ended for call in calls):
                for connection in all_:
                    connection.read(0)
            outcomes = Counter(map(_outcome, calls))
        assert outcomes.keys() <= {"answered", "refused"}, outcomes
        assert counted() - before >= BURST
        return f"{BURST} calls at once: {dict(outcomes)}"

    # To begin and answer them takes the server seconds, in which others wait longer than else; who
    # comes meanwhile comes after them.
    Comparison(
        target=server.target, times=float("inf"), longest=3.0, newcomers=PATIENCE_SECONDS
    ).run(bout)


@pytest.mark.parametrize("seconds", [1.5, pytest.param(20.0, marks=LONG)], ids=["short", "long"])
@pytest.mark.parametrize("first", [b"", ONE], ids=["before a message", "after a message"])
def test_calls_that_are_opened_and_reset_for_ever(
    server: ServerProcess, first: bytes, seconds: float
) -> None:
    def bout() -> str:
        made = 0
        end = monotonic() + seconds
        while monotonic() < end:
            with Connection(server.target) as connection, contextlib.suppress(ConnectionError):
                while monotonic() < end and not connection.gone:
                    for _ in range(50):
                        call = connection.open(STREAM, first=first)
                        connection.reset(call)
                        connection.calls.clear()
                        made += 1
                    connection.read(0)
        return f"{made} calls opened and reset in {seconds} s"

    Comparison(target=server.target, longest=1.0).run(bout)


def _flood(*frames: Frame) -> bytes:
    once = b"".join(frame.serialize() for frame in frames)
    return once * (65_536 // len(once))


FLOODS: dict[str, Callable[[int], bytes]] = {
    "window updates": lambda _: _flood(WindowUpdateFrame(0, window_increment=1)),
    "priorities": lambda call: _flood(PriorityFrame(call, depends_on=0, stream_weight=1)),
    "window updates and priorities": lambda call: _flood(
        WindowUpdateFrame(0, window_increment=1), PriorityFrame(call, stream_weight=1)
    ),
    "pings": lambda _: _flood(PingFrame(0, opaque_data=b"12345678")),
    "settings": lambda _: _flood(SettingsFrame(0, settings={4: 65_535})),
    "resets of nothing": lambda call: _flood(RstStreamFrame(call + 100, error_code=8)),
    "empty data": lambda call: _flood(DataFrame(call)),
    "headers without an end": lambda call: (
        HeadersFrame(call + 2, b"\x00\x01a\x01b").serialize()
        + _flood(ContinuationFrame(call + 2, b"\x00\x01a\x01b" * 100))
    ),
    "unknown frames": lambda call: b"".join([b"\0\0\x08\xee\0\0\0\0\0abcdefgh"] * 3800),
}


SHORT = {"window updates", "window updates and priorities", "pings", "settings", "unknown frames"}
"""Those that were too much once."""
FLOODED = [
    pytest.param(kind, seconds, marks=[] if kind in SHORT and seconds < 2 else [LONG])
    for kind in FLOODS
    for seconds in (1.2, 15.0)
]


@pytest.mark.parametrize(("kind", "seconds"), FLOODED)
def test_a_connection_that_sends_frames_which_mean_nothing(
    server: ServerProcess, kind: str, seconds: float
) -> None:
    """It never reads; the server may end it, and it comes again."""

    def bout() -> str:
        sent = came = 0
        end = monotonic() + seconds
        while monotonic() < end:
            came += 1
            with Connection(server.target) as connection:
                data = FLOODS[kind](connection.open(STREAM, first=ONE).number)
                connection.socket.settimeout(0.2)
                with contextlib.suppress(OSError):
                    while monotonic() < end:
                        connection.raw(data)
                        sent += len(data)
        return f"{kind}: {sent / 1e6:.0f} MB in {seconds} s, over {came} connections"

    Comparison(target=server.target, longest=1.0).run(bout)
