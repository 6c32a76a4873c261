"""Predictions are exact to the bit on whichever path a step takes through the server."""

import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import elman
import elman.aio
from benchmarks.models import MIDDLE, SMALL, VOCABULARY, Size
from tests.oracle import Oracle
from tests.serverprocess import ServerProcess

SESSIONS = 48
INLINE_SECONDS = 200e-6
"""From which on a step runs on the compute thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    name: str
    size: Size
    flags: tuple[str, ...] = ()
    connections: int = 1
    pieces: tuple[int, ...] = (1,)
    """How many elements are pushed at a time."""
    taken: Callable[[ServerProcess], bool]
    """Whether the steps did go that way."""


def mean_seconds(server: ServerProcess) -> float:
    total = server.metric("elman_step_duration_seconds_sum")
    return total / server.metric("elman_step_duration_seconds_count")


def rows(server: ServerProcess) -> float:
    return server.metric("elman_step_batch_size_sum") / server.metric("elman_steps_total")


def chunks(server: ServerProcess) -> float:
    """Elements of a row."""
    return server.metric("elman_elements_total") / server.metric("elman_step_batch_size_sum")


WAYS = [
    Way(
        name="one row on the event loop",
        size=SMALL,
        flags=("--max-batch-size", "1"),
        taken=lambda server: rows(server) == 1,
    ),
    Way(
        name="batches on the thread",
        size=MIDDLE,
        taken=lambda server: rows(server) > 2 and mean_seconds(server) > INLINE_SECONDS,
    ),
    Way(
        name="full steps ahead of one another",
        size=MIDDLE,
        flags=("--max-batch-size", "6"),
        pieces=(4,),
        taken=lambda server: rows(server) > 3 and chunks(server) > 2,
    ),
    Way(
        name="chunks of any length",
        size=SMALL,
        pieces=(1, 2, 3, 7, 31, 50),
        taken=lambda server: rows(server) > 1 and chunks(server) > 2,
    ),
    Way(
        name="int8",
        size=Size(hidden=64, layers=2, int8=True),
        pieces=(1, 5, 9),
        taken=lambda server: rows(server) > 1,
    ),
    Way(
        name="two workers",
        size=SMALL,
        flags=("--workers", "2"),
        connections=8,
        pieces=(1, 3),
        taken=lambda server: server.metric("elman_workers") == 2,
    ),
]


@pytest.mark.parametrize("way", WAYS, ids=[way.name for way in WAYS])
async def test_it_equals_the_session_run_alone(way: Way, tmp_path: Path) -> None:
    rng = random.Random(way.name)
    oracle = Oracle(way.size.save(tmp_path))
    texts = ["".join(rng.choices(VOCABULARY, k=rng.randint(40, 120))) for _ in range(SESSIONS)]
    async with AsyncExitStack() as stack:
        server = stack.enter_context(ServerProcess(str(tmp_path), *way.flags))
        clients = [
            await stack.enter_async_context(elman.aio.connect(server.target))
            for _ in range(way.connections)
        ]
        streams = [
            await stack.enter_async_context(clients[n % len(clients)].stream(way.size.name))
            for n in range(SESSIONS)
        ]
        answers: list[list[elman.Prediction]] = [[] for _ in texts]
        pushed = [0] * SESSIONS
        # All push before any reads: so they share frames and steps.
        while any(pushed[n] < len(text) for n, text in enumerate(texts)):
            for n, text in enumerate(texts):
                piece = text[pushed[n] : pushed[n] + rng.choice(way.pieces)]
                await streams[n].push_many(piece)
                pushed[n] += len(piece)
            for n, stream in enumerate(streams):
                while len(answers[n]) < pushed[n]:
                    answers[n].append(await anext(stream))
        assert way.taken(server)
    assert [logits(found) for found in answers] == [expected(oracle, text) for text in texts]


def logits(predictions: list[elman.Prediction]) -> list[bytes]:
    return [np.asarray(prediction["next"]).tobytes() for prediction in predictions]


def expected(oracle: Oracle, text: str) -> list[bytes]:
    outputs: list[dict[str, Any]] = oracle.run(text)
    return [values["next"].tobytes() for values in outputs]
