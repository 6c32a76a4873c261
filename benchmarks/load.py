"""Closed-loop loads on a server: every session keeps a fixed number of elements in flight.

Two clients drive the same load. `sdk` is `elman.aio`, one task a session, a call an element, as an
application would write it. `frames` writes and reads packed frames with no work for each element,
as a load generator in a faster language would: it shows what the server can do.
"""

import asyncio
import time
from dataclasses import dataclass

import grpc

import elman.aio
from elman.v1 import inference_pb2 as pb
from elman.v1.inference_pb2_grpc import InferenceStub

_WARM_UP_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    target: str
    model: str
    sessions: int
    window: int
    """Elements in flight for each session."""
    seconds: float
    """Measured, after half a second of warm-up."""


async def sdk(load: Load) -> float:
    """Elements a second."""
    counts = [0] * load.sessions
    stop = asyncio.Event()

    async def one(client: elman.aio.Client, index: int) -> None:
        async with client.stream(load.model, window=load.window) as stream:
            if load.window == 1:
                while not stop.is_set():
                    await stream.step("a")
                    counts[index] += 1
            else:
                while not stop.is_set():
                    async for _ in stream.map("a" * load.window * 64):
                        counts[index] += 1

    async with elman.aio.connect(load.target) as client:
        tasks = [asyncio.create_task(one(client, index)) for index in range(load.sessions)]
        await asyncio.sleep(_WARM_UP_SECONDS)
        before, start = sum(counts), time.perf_counter()
        await asyncio.sleep(load.seconds)
        rate = (sum(counts) - before) / (time.perf_counter() - start)
        stop.set()
        await asyncio.gather(*tasks)
    return rate


async def frames(load: Load) -> float:
    """Elements a second."""
    numbers = range(load.sessions)
    async with grpc.aio.insecure_channel(load.target) as channel:
        call = InferenceStub(channel).Stream()
        await call.write(
            pb.StreamRequest(
                model=load.model,
                opens=[pb.Open(session=number) for number in numbers],
                push=pb.Push(sessions=numbers, text="a" * load.sessions * load.window),
            )
        )
        start = time.perf_counter() + _WARM_UP_SECONDS
        answered = 0
        while (now := time.perf_counter()) < start + load.seconds:
            response = await call.read()
            assert isinstance(response, pb.StreamResponse)
            for part in response.predictions:
                # What was answered is pushed again, so the same number stays in flight.
                count = sum(part.counts) or len(part.sessions)
                push = pb.Push(sessions=part.sessions, counts=part.counts, text="a" * count)
                await call.write(pb.StreamRequest(push=push))
                if now >= start:
                    answered += count
        rate = answered / (now - start)
        call.cancel()
    return rate
