"""Thousands of parked streams that are woken at once, each for one element.

pytest -m slow -s tests/chaos/test_parked.py
"""

import asyncio
from time import monotonic

import pytest

from elman import aio
from elman_server.model.repository import BUNDLED
from tests.chaos.load import p99, quantiles
from tests.oracle import Oracle
from tests.serverprocess import ServerProcess

long = pytest.mark.slow
_AT_ONCE = 500
WAKE_SECONDS = 30.0
"""What p99 from all of the pushes to an answer may be, of two thousand on a busy machine."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("sessions", "park_after"),
    [pytest.param(2000, 0.3, marks=long), pytest.param(20_000, 1.0, marks=long)],
)
async def test_all_that_were_parked_wake_at_once(sessions: int, park_after: float) -> None:
    """Opening all of them takes longer than a session stays open without an element."""
    texts = ["ab", "ba"]
    oracle = Oracle(BUNDLED / "sentiment/1/model.onnx")
    alone = [[each["positive"].item() for each in oracle.run(text)] for text in texts]
    with ServerProcess("--demo", "--park-after", str(park_after)) as server:
        async with aio.connect(server.target, timeout=120) as client:
            streams: list[aio.Stream] = []
            while len(streams) < sessions:
                some = [client.stream("sentiment", outputs="positive") for _ in range(_AT_ONCE)]
                streams += await asyncio.gather(*some)
            first = [stream.step(texts[number % 2][0]) for number, stream in enumerate(streams)]
            assert [p["positive"] for p in await asyncio.gather(*first)] == [
                alone[number % 2][0] for number in range(sessions)
            ]
            while await asyncio.to_thread(server.metric, "elman_sessions"):
                await asyncio.sleep(0.1)
            begun = monotonic()
            took: list[float] = []

            async def wake(number: int, stream: aio.Stream) -> None:
                prediction = await stream.step(texts[number % 2][1])
                took.append(monotonic() - begun)
                assert prediction.position == 1
                assert prediction["positive"] == alone[number % 2][1]

            await asyncio.gather(*(wake(*each) for each in enumerate(streams)))
            print(f"\n{sessions} streams that were parked")
            print(quantiles("from all pushes to an answer", took))
            await asyncio.gather(*(stream.close() for stream in streams))
    assert p99(took) < WAKE_SECONDS * max(1.0, sessions / 2000)
