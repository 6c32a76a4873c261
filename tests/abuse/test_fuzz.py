"""Frames and unary calls at random: the server answers or refuses them, and is as it was before.

pytest -s -m slow tests/abuse/test_fuzz.py       for minutes, with another seed each time
ELMAN_FUZZ_SEED=7 pytest ...                      with that one
"""

import asyncio
import os
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import count
from random import Random
from time import monotonic, time_ns
from typing import Any

import grpc
import pytest

from elman.v1 import inference_pb2 as pb
from tests import stepmodels
from tests.abuse.comparison import Comparison
from tests.abuse.fuzzer import Fuzzer, Target, features, floats, text
from tests.abuse.http2 import GET_MODEL, LIST_MODELS, PREDICT, STREAM
from tests.abuse.innocent import Innocent
from tests.abuse.readings import Peak, at_rest, check_nothing_left
from tests.serverprocess import ServerProcess

AT_ONCE = 12
PATIENCE_SECONDS = 20.0
LONGEST_SECONDS = 2.0
ALLOWED_MIB = 256
BUGS = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED)
"""What says that something went wrong inside, or hangs."""
OF_THE_CLIENT = "Internal error from Core"
"""What grpc.aio says where a call ended while it was written to, whatever its status is."""
OF_THE_MODEL = "the model failed to make the session's state from its contexts"
"""The captions' network knows a few styles, and a byte at random may ask it for another."""
SEED = 17
LONG = pytest.mark.slow
SECONDS = pytest.mark.parametrize(
    "seconds", [6.0, pytest.param(120.0, marks=LONG)], ids=["short", "long"]
)


def _caption_contexts(rng: Random) -> Sequence[pb.ContextValue]:
    return [
        pb.ContextValue(name="image", raw=floats(rng, 12)),
        pb.ContextValue(name="style", raw=struct.pack("<q", rng.randrange(stepmodels.STYLES))),
        pb.ContextValue(name="gain", raw=floats(rng, 8)),
    ]


def _tilt_contexts(rng: Random) -> Sequence[pb.ContextValue]:
    return [pb.ContextValue(name=name, raw=floats(rng, 2)) for name in ("start", "tilt")]


TARGETS = (
    Target(name="sentiment", elements=text),
    Target(name="shakespeare", elements=text),
    Target(name="leaky", elements=features(3)),
    Target(name="caption", elements=text, contexts=_caption_contexts),
    Target(name="tilted", elements=features(2), contexts=_tilt_contexts),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("models")
    stepmodels.save(*stepmodels.leaky(width=3), folder / "leaky/1/model.onnx")
    stepmodels.save_conditioned(stepmodels.caption(), folder / "caption/1/model.onnx")
    stepmodels.save_conditioned(stepmodels.tilted(width=2), folder / "tilted/1/model.onnx")
    with ServerProcess(str(folder), "--demo", "--grace-period", "5") as server:
        with Innocent(server.target) as innocent:
            innocent.stop()
        yield server
        assert server.terminate() == 0


class Fuzz:
    """Calls at random, many at once, for some time."""

    def __init__(self, target: str, seed: int, seconds: float) -> None:
        self._target = target
        self._seed = seed
        self._calls = count()
        self._tickets: list[bytes] = []
        self._end = monotonic() + seconds
        self.codes: Counter[str] = Counter()
        self.frames = 0
        self.bugs: list[str] = []

    async def run(self, call: Callable[[grpc.aio.Channel, Fuzzer], Awaitable[None]]) -> None:
        options = [("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(self._target, options=options) as channel:

            async def worker() -> None:
                while monotonic() < self._end:
                    seed = f"{self._seed}, call {next(self._calls)}"
                    await call(channel, Fuzzer(seed, TARGETS, self._tickets))

            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(worker())

    async def unary(self, channel: grpc.aio.Channel, fuzzer: Fuzzer) -> None:
        make, path = fuzzer.rng.choices(
            [
                (fuzzer.predict, PREDICT),
                (fuzzer.get_model, GET_MODEL),
                (fuzzer.list_models, LIST_MODELS),
            ],
            weights=[6, 3, 1],
        )[0]
        content = make()
        method: Any = channel.unary_unary(path)
        call = method(content, timeout=PATIENCE_SECONDS)
        # Waits for the end, without raising what it ended with.
        code = await call.code()
        self._count(path, code, await call.details(), content)

    async def stream(self, channel: grpc.aio.Channel, fuzzer: Fuzzer) -> None:
        rng, rpc = fuzzer.rng, fuzzer.rpc()
        method: Any = channel.stream_stream(STREAM)
        call = method(timeout=PATIENCE_SECONDS)
        reading = asyncio.create_task(self._read(call, fuzzer))
        sent: list[bytes] = []
        try:
            for _ in range(rng.choice([1, 2, 8, 24])):
                sent.append(fuzzer.frame(rpc))
                await call.write(sent[-1])
                self.frames += 1
            if rng.random() < 0.6:
                await call.done_writing()
            else:
                await asyncio.sleep(rng.random() * 0.02)
                call.cancel()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # it has ended meanwhile
        await reading
        self._count(STREAM, await call.code(), await call.details(), *sent)

    async def _read(self, call: Any, fuzzer: Fuzzer) -> None:
        try:
            async for message in call:
                response = pb.StreamResponse.FromString(message)
                for ticket in response.tickets:
                    fuzzer.keep(ticket.ticket)
                for closed in response.closed:
                    self.codes[f"closed {pb.CloseReason.Name(closed.reason)}"] += 1
                    failed = closed.code in (2, 13) and closed.message != OF_THE_MODEL
                    if failed or not closed.reason:
                        self.bugs.append(f"closed: {closed}")
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass  # its code is looked at

    def _count(self, path: str, code: grpc.StatusCode, details: str, *sent: bytes) -> None:
        self.codes[f"{path.rpartition('/')[2]} {code.name}"] += 1
        if code in BUGS and details not in (OF_THE_CLIENT, OF_THE_MODEL):
            last = [content.hex()[:400] for content in sent[-3:]]
            self.bugs.append(f"{path}: {code.name}: {details}: {last}")


@SECONDS
@pytest.mark.parametrize("what", ["frames", "unary calls"])
@pytest.mark.timeout(900)
def test_requests_at_random_break_nothing(server: ServerProcess, what: str, seconds: float) -> None:
    usual = SEED if seconds < 60 else time_ns() % 2**32
    seed = int(os.environ.get("ELMAN_FUZZ_SEED", usual))
    before, peak = at_rest(server), Peak(server)

    def bout() -> str:
        fuzz = Fuzz(server.target, seed, seconds)
        asyncio.run(fuzz.run(fuzz.stream if what == "frames" else fuzz.unary))
        assert not fuzz.bugs, fuzz.bugs[:3]
        calls = sum(count for code, count in fuzz.codes.items() if not code.startswith("closed"))
        made = f"seed {seed}: {calls} calls, {fuzz.frames} frames"
        return f"{made}, +{peak.grown:.0f} MiB\n  {dict(sorted(fuzz.codes.items()))}"

    # A load that is heavy now and then: nobody meets an error, or waits for long.
    Comparison(target=server.target, times=float("inf"), longest=LONGEST_SECONDS).run(bout)
    assert peak.grown < ALLOWED_MIB
    check_nothing_left(server, before)
