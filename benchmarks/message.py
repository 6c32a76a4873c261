"""Where the time of one message goes in the server, leg by leg.

    python -m benchmarks.message

One session, one element in flight. The server runs in a process of its own, with the time taken
down wherever a message comes by; what that costs, some microseconds, is in the legs.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import uvloop

import elman
from benchmarks.machine import machine
from benchmarks.models import SMALL
from elman.bench.drive import drive
from elman.bench.load import Load
from tests.serverprocess import ServerProcess

_SECONDS = 5.0
_FILE = "ELMAN_BENCHMARK_LEGS"
"""The variable that names the file for the server's findings."""
_LEGS = {
    ("read", "queue"): "the frame is taken apart",
    ("queue", "queued"): "its element is queued",
    ("queued", "turn"): "the event loop's next turn",
    ("turn", "run"): "the step is made",
    ("run", "ran"): "the step runs",
    ("ran", "turned"): "its prediction goes to its caller's outbox",
    ("turned", "pack"): "the caller's writer wakes",
    ("pack", "write"): "the prediction is packed",
    ("write", "read"): "gRPC and the wire, the client, and the reader wakes",
}


class Clocks:
    """Takes down when something happened last."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        self._legs: dict[str, list[float]] = {name: [] for name in _LEGS.values()}

    def mark(self, event: str) -> None:
        self._times[event] = now = perf_counter()
        for (start, stop), name in _LEGS.items():
            if stop == event and start in self._times:
                self._legs[name].append(now - self._times[start])

    def around(self, owner: Any, name: str, before: str, after: str = "") -> None:
        """Marks whenever a method of `owner` is called, and when it returns."""
        method: Callable[..., Any] = getattr(owner, name)

        @wraps(method)
        def timed(*arguments: Any, **options: Any) -> Any:
            self.mark(before)
            result = method(*arguments, **options)
            if after:
                self.mark(after)
            return result

        setattr(owner, name, timed)

    def medians(self) -> dict[str, float]:
        """Seconds."""
        return {name: median(legs) for name, legs in self._legs.items() if legs}


def serve(path: Path) -> None:
    """`elman serve` with clocks; what they found is in the file when it is over."""
    from elman.cli import main as elman_main
    from elman_server.engine.engine import Engine
    from elman_server.engine.step_loop import StepLoop
    from elman_server.frontend.wire.servicer import _Requests
    from elman_server.frontend.wire.stream import StreamRpc, Write

    clocks = Clocks()
    clocks.around(Engine, "push", "queue", "queued")
    clocks.around(StepLoop, "_turn", "turn", "turned")
    clocks.around(StepLoop, "_run_inline", "run", "ran")
    clocks.around(StreamRpc, "_responses", "pack")
    read, run = _Requests.__anext__, StreamRpc.run

    async def timed_read(requests: _Requests) -> Any:
        frame = await read(requests)
        clocks.mark("read")
        return frame

    async def timed_run(rpc: StreamRpc, first: Any, requests: Any, write: Write) -> None:
        async def timed_write(response: bytes) -> None:
            clocks.mark("write")
            await write(response)

        await run(rpc, first, requests, timed_write)

    setattr(_Requests, "__anext__", timed_read)  # noqa: B010  # mypy takes no method for another
    setattr(StreamRpc, "run", timed_run)  # noqa: B010
    try:
        elman_main(["serve", *sys.argv[1:]])
    finally:
        path.write_text(json.dumps(clocks.medians()))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "legs.json")
        model = SMALL.save(Path(folder, "models"))
        load = Load(seconds=_SECONDS, warm_up=0.5, sessions=1)
        with ServerProcess(
            str(model), env={_FILE: str(found)}, module="benchmarks.message"
        ) as server:
            with elman.connect(server.target) as client:
                [served] = client.models()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                result = runner.run(drive(server.target, served, load))
            server.terminate()
        legs: dict[str, float] = json.loads(found.read_text())
    for name, seconds in legs.items():
        print(f"{name:50} {seconds * 1e6:6.0f} µs")
    assert result.latencies is not None
    print(f"{'as the client sees it, p50':50} {result.latencies.p50 * 1e6:6.0f} µs")
    print(" · ".join(f"{key} {value}" for key, value in machine().items()))


if __name__ == "__main__":
    if _FILE in os.environ:
        serve(Path(os.environ[_FILE]))
    else:
        main()
