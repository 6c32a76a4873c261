"""Callers that never read, and messages that never end: what the server holds for them is bounded.

pytest -s tests/abuse/test_memory.py
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import psutil
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from elman.v1 import inference_pb2 as pb
from tests.abuse import models
from tests.abuse.comparison import TIMES, Comparison
from tests.abuse.http2 import (
    LIST_MODELS,
    PREDICT,
    REFLECTION,
    STREAM,
    WATCH,
    Connection,
    packed,
)
from tests.abuse.innocent import Innocent
from tests.abuse.readings import MIB, Peak, at_rest, check_nothing_left
from tests.serverprocess import ServerProcess

ALLOWED_MIB = 640
"""What hostile callers may make the server take, above what it had: `max_pending_bytes` of what
they pushed and `max_unread_bytes` of what they don't read, or `max_unary_bytes` of either, each
256 MiB, and as much as half of one for what is being copied."""
AT_MOST = 4096 * MIB
"""The server may not take more than this, so that a failing test takes no machine down."""
WIDE = 4096
"""Numbers that each prediction of the wide model has: 16 KiB."""
LONG = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class Abused:
    server: ServerProcess
    fresh: float
    """MiB of RAM that it had before the attack."""


@pytest.fixture
def abused(tmp_path: Path) -> Iterator[Abused]:
    models.save(models.wide(WIDE), tmp_path, "wide")
    with ServerProcess(str(tmp_path), "--demo") as server:
        process = psutil.Process(server.process.pid)
        process.rlimit(psutil.RLIMIT_DATA, (AT_MOST, AT_MOST))
        with Innocent(server.target) as innocent:
            innocent.stop()
        yield Abused(server, process.memory_info().rss / MIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hoard:
    """Calls that ask for much and take nothing."""

    path: str
    message: Callable[[], bytes]
    connections: int
    calls: int
    """On each connection."""
    missing: int = 0
    """Bytes of the message's end that never come."""
    times: float = TIMES
    """What p99 may be beside it. To begin thousands of calls takes the server most of a second, as
    in `test_calls`."""


def _held_elements() -> bytes:
    push = pb.Push(sessions=[0], text="a" * 4_100_000)
    opens = [pb.Open(session=0)]
    return packed(pb.StreamRequest(model="sentiment", opens=opens, push=push))


def _held_predictions() -> bytes:
    """A window of each of four sessions, whose predictions are 64 MiB."""
    opens = [pb.Open(session=number) for number in range(4)]
    raw = np.ones(4 * 1000, np.float32).tobytes()
    push = pb.Push(sessions=range(4), raw=raw)
    return packed(pb.StreamRequest(model="wide", opens=opens, push=push))


def _predict() -> bytes:
    raw = np.ones(250, np.float32).tobytes()
    return packed(pb.PredictRequest(model="wide", raw=raw))


def _reflection() -> bytes:
    return packed(ServerReflectionRequest(host="h" * 4_000_000, file_by_filename="nothing"))


def _watch() -> bytes:
    return packed(HealthCheckRequest(service="s" * 4_000_000))


HOARDS = {
    "elements": Hoard(path=STREAM, message=_held_elements, connections=2, calls=4),
    "predictions": Hoard(path=STREAM, message=_held_predictions, connections=2, calls=8),
    "sequences": Hoard(path=PREDICT, message=_predict, connections=4, calls=50),
    "half messages": Hoard(path=STREAM, message=_held_elements, connections=8, calls=40, missing=1),
    "half sequences": Hoard(
        path=PREDICT, message=_predict, connections=8, calls=400, missing=1, times=inf
    ),
    "reflection": Hoard(path=REFLECTION, message=_reflection, connections=4, calls=50),
    "watches": Hoard(path=WATCH, message=_watch, connections=4, calls=50),
    "lists": Hoard(
        path=LIST_MODELS, message=lambda: packed(b""), connections=4, calls=1000, times=inf
    ),
}


@pytest.mark.parametrize("seconds", [1.2, pytest.param(20.0, marks=LONG)], ids=["short", "long"])
@pytest.mark.parametrize(
    "kind",
    # As fast as the machine can send, which others share: by hand.
    [pytest.param(kind, marks=[LONG] if kind == "half messages" else []) for kind in HOARDS],
)
def test_what_nobody_reads_takes_a_bounded_memory(
    abused: Abused, kind: str, seconds: float
) -> None:
    """`seconds`: to send as much as the server takes; and half as many to wait with it."""
    server, hoard = abused.server, HOARDS[kind]
    before, peak = at_rest(server), Peak(server)
    message = hoard.message()
    data = message[: len(message) - hoard.missing]

    def bout() -> str:
        pending, sent, closed = 0.0, 0, 0
        with ExitStack() as stack:
            connections = [
                stack.enter_context(Connection(server.target, window=0))
                for _ in range(hoard.connections)
            ]
            end = monotonic() + seconds
            for number in range(hoard.connections * hoard.calls):
                if (left := end - monotonic()) <= 0 or not connections:
                    break
                connection = connections[number % len(connections)]
                try:
                    call = connection.open(hoard.path)
                    sent += connection.send(
                        call, data, end=not hoard.missing, seconds=min(0.2, left)
                    )
                except OSError:  # the server closed it
                    connections.remove(connection)
                    closed += 1
            end = monotonic() + seconds / 2
            while monotonic() < end:
                for connection in connections:
                    with suppress(OSError):
                        connection.read(0.01)
                pending = max(pending, server.metric("elman_pending_elements"))
                sleep(0.05)
        grown = peak.most - abused.fresh
        assert grown < ALLOWED_MIB
        what = f"{kind}: {sent} calls of {len(data):,} bytes sent, {closed} connections closed"
        return f"{what}, +{grown:.0f} MiB, {pending:.0f} elements pending"

    Comparison(target=server.target, times=hoard.times, longest=2.0).run(bout)
    check_nothing_left(server, before)
