"""The same closed loops through `elman.aio`, one task a session and a call an element, as an
application would write it.
"""

import asyncio
import time
from dataclasses import dataclass

import elman.aio
from elman.bench.load import Load


@dataclass(frozen=True, slots=True)
class Applied:
    elements_per_second: float
    client_cpu: float
    """Seconds of this process's CPU for each element."""


async def drive(target: str, model: str, load: Load) -> Applied:
    counts = [0] * load.sessions
    stop = asyncio.Event()

    async def one(client: elman.aio.Client, index: int) -> None:
        async with client.stream(model, window=load.window) as stream:
            while not stop.is_set():
                if load.window == 1:
                    await stream.step("a")
                    counts[index] += 1
                    continue
                async for _ in stream.map("a" * load.window * 64):
                    counts[index] += 1

    async with elman.aio.connect(target) as client:
        tasks = [asyncio.create_task(one(client, index)) for index in range(load.sessions)]
        await asyncio.sleep(load.warm_up)
        before, start, used = sum(counts), time.perf_counter(), time.process_time()
        await asyncio.sleep(load.seconds)
        elements = sum(counts) - before
        seconds, used = time.perf_counter() - start, time.process_time() - used
        stop.set()
        await asyncio.gather(*tasks)
    return Applied(elements / seconds, used / max(1, elements))
