"""Runs a load on a server and says what came of it."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc
import numpy as np

from elman import Model
from elman.bench.elements import Elements
from elman.bench.load import Load
from elman.bench.peer import Peer, clock
from elman.bench.recorder import Latencies, Recorder
from elman.bench.schedule import Schedule
from elman.bench.usage import Usage
from elman.v1 import inference_pb2 as pb
from elman.v1.inference_pb2_grpc import InferenceStub

_MAX_MESSAGE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a load, in the seconds that were measured."""

    elements: int
    elements_per_second: float
    latencies: Latencies | None
    """None if nothing was answered."""
    elements_per_frame: float
    """Of what the server sent."""
    unanswered: int
    """Open loop: elements that were due and had no answer ten seconds after the last was."""
    open_seconds: float
    """To open all sessions."""
    client_cpu: float
    """Seconds of this process's CPU for each element."""
    server: Usage | None
    """What the server used, if that was watched."""

    @property
    def server_cpu(self) -> float | None:
        """Seconds of the server's CPU for each element."""
        return None if self.server is None else self.server.cpu_seconds / max(1, self.elements)

    @property
    def rows_per_step(self) -> float | None:
        """The mean batch."""
        return None if self.server is None else self.server.rows / max(1, self.server.steps)


async def drive(
    target: str,
    model: Model,
    load: Load,
    outputs: Sequence[pb.OutputRequest] = (),
    usage: Callable[[], Usage] | None = None,
) -> Result:
    """`usage` is asked, on a thread, when the measurement starts and when it stops.

    Raises `LoadFailed` if the server ends what it should not, `grpc.RpcError`, and what `usage`
    raises.
    """
    shares = load.shares
    async with AsyncExitStack() as stack:
        peers = []
        for number, share in enumerate(shares):
            call = await stack.enter_async_context(_called(target))
            first = pb.StreamRequest(model=model.name, version=model.version)
            peers.append(
                Peer(
                    call,
                    first,
                    pb.Open(
                        outputs=outputs,
                        contexts=_contexts(model, load.seed),
                        ticket_every_elements=load.ticket_every,
                        name=f"bench {secrets.token_hex(8)}" if load.named else "",
                    ),
                    sessions=len(share),
                    elements=Elements.of(model, load.seed + number),
                )
            )
        begun = clock()
        await asyncio.gather(*(peer.open() for peer in peers))
        now = clock()
        open_seconds, start = now - begun, now + load.warm_up
        recorder = Recorder(start, start + load.seconds, by_due=load.open_loop)
        meter = asyncio.create_task(_metered(recorder, usage))
        if load.open_loop:
            loops = [
                peer.open_loop(Schedule.of(load, share, number), now, recorder)
                for number, (peer, share) in enumerate(zip(peers, shares, strict=True))
            ]
            unanswered = sum(await asyncio.gather(*loops))
        else:
            await asyncio.gather(*(peer.closed_loop(load.window, recorder) for peer in peers))
            unanswered = 0
        cpu_seconds, server = await meter
    return Result(
        elements=recorder.elements,
        elements_per_second=recorder.per_second,
        latencies=recorder.latencies(),
        elements_per_frame=recorder.elements / max(1, recorder.frames),
        unanswered=unanswered,
        open_seconds=open_seconds,
        client_cpu=cpu_seconds / max(1, recorder.elements),
        server=server,
    )


async def _metered(
    recorder: Recorder, usage: Callable[[], Usage] | None
) -> tuple[float, Usage | None]:
    """Seconds of its CPU that this process uses while the recorder counts, and what the server
    uses."""
    await asyncio.sleep(recorder.start - clock())
    asked = None if usage is None else await asyncio.to_thread(usage)
    before = time.process_time()
    await asyncio.sleep(recorder.stop - clock())
    seconds = time.process_time() - before
    if usage is None or asked is None:
        return seconds, None
    return seconds, (await asyncio.to_thread(usage)).since(asked)


@asynccontextmanager
async def _called(
    target: str,
) -> "AsyncIterator[grpc.aio.StreamStreamCall[pb.StreamRequest, pb.StreamResponse]]":
    """A Stream RPC on a connection of its own."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ]
    async with grpc.aio.insecure_channel(target, options) as channel:
        call = InferenceStub(channel).Stream()
        try:
            yield call
        finally:
            call.cancel()


def _contexts(model: Model, seed: int) -> list[pb.ContextValue]:
    """Standard normal numbers, or zeros of an integer type, as what such a context may be is not
    known."""
    rng = np.random.default_rng(seed)
    values = []
    for context in model.contexts:
        numbers = np.zeros(context.shape)
        if np.issubdtype(context.dtype, np.floating):
            numbers = rng.standard_normal(context.shape)
        values.append(
            pb.ContextValue(
                name=context.name, raw=numbers.astype(context.dtype.newbyteorder("<")).tobytes()
            )
        )
    return values
