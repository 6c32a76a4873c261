"""Runs a load on a server and measures the result."""

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
    """Result of a load, over the measured seconds."""

    elements: int
    elements_per_second: float
    latencies: Latencies | None
    """None without any answer."""
    elements_per_frame: float
    """Mean number of elements in a frame from the server."""
    unanswered: int
    """Open loop: due elements without an answer within ten seconds after the measurement."""
    open_seconds: float
    """Seconds to open all sessions."""
    client_cpu: float
    """CPU seconds of this process per element."""
    server: Usage | None
    """Resources used by the server; None if not measured."""

    @property
    def server_cpu(self) -> float | None:
        """CPU seconds of the server per element."""
        return None if self.server is None else self.server.cpu_seconds / max(1, self.elements)

    @property
    def rows_per_step(self) -> float | None:
        """Mean batch size."""
        return None if self.server is None else self.server.rows / max(1, self.server.steps)


async def drive(
    target: str,
    model: Model,
    load: Load,
    outputs: Sequence[pb.OutputRequest] = (),
    usage: Callable[[], Usage] | None = None,
) -> Result:
    """Runs a load. `usage` is called on a thread at the start and at the end of the measurement.

    Raises `LoadFailed` if the server ends a session or an RPC, `grpc.RpcError`, and the errors of
    `usage`.
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
        opening_at = clock()
        await asyncio.gather(*(peer.open() for peer in peers))
        now = clock()
        open_seconds, start = now - opening_at, now + load.warm_up
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
    """Returns this process's CPU seconds and the server's usage between the recorder's start and
    stop."""
    await asyncio.sleep(recorder.start - clock())
    usage_before = None if usage is None else await asyncio.to_thread(usage)
    before = time.process_time()
    await asyncio.sleep(recorder.stop - clock())
    seconds = time.process_time() - before
    if usage is None or usage_before is None:
        return seconds, None
    return seconds, (await asyncio.to_thread(usage)).since(usage_before)


@asynccontextmanager
async def _called(
    target: str,
) -> "AsyncIterator[grpc.aio.StreamStreamCall[pb.StreamRequest, pb.StreamResponse]]":
    """Opens a Stream RPC on a separate connection."""
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
    """Standard normal numbers, or zeros for an integer dtype, as its valid values are unknown."""
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
