"""A session's predictions are bit for bit those of the same session run alone."""

import asyncio
import csv
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import elman
import elman.aio
from elman_server.model.repository import BUNDLED
from tests.oracle import Oracle
from tests.serverprocess import ServerProcess
from tests.stepmodels import ALPHABET, leaky, save, save_lstm


def temperatures() -> list[float]:
    with (BUNDLED / "weather" / "holdout.csv").open() as file:
        return [float(row["temperature"]) for row in csv.DictReader(file)]


BUNDLED_SESSIONS = [
    ("sentiment", "not bad at all, it is Wonderful"),
    ("shakespeare", "ROMEO:\nBut soft, what light through yonder window breaks?"),
    ("weather", temperatures()[:48]),
]


def same(predictions: Iterable[elman.Prediction], expected: list[dict[str, Any]]) -> bool:
    found = list(predictions)
    assert [prediction.position for prediction in found] == list(range(len(expected)))
    return all(
        np.asarray(prediction[name], values.dtype).tobytes() == values.tobytes()
        for prediction, outputs in zip(found, expected, strict=True)
        for name, values in outputs.items()
    )


@pytest.fixture(scope="module")
def expected() -> dict[str, list[dict[str, Any]]]:
    return {
        name: Oracle(BUNDLED / name / "1" / "model.onnx").run(acceptable(name, elements))
        for name, elements in BUNDLED_SESSIONS
    }


def acceptable(name: str, elements: Sequence[Any]) -> list[Any]:
    """The elements that are in the model's vocabulary."""
    vocabulary = Oracle(BUNDLED / name / "1" / "model.onnx").spec.input.vocabulary
    return [e for e in elements if not vocabulary or e in vocabulary]


def as_input(elements: list[Any]) -> Any:
    return "".join(elements) if isinstance(elements[0], str) else np.array(elements, np.float32)


@pytest.mark.parametrize(("name", "elements"), BUNDLED_SESSIONS)
def test_a_bundled_model_through_the_sync_sdk(
    demo_server: ServerProcess, expected: dict[str, Any], name: str, elements: Sequence[Any]
) -> None:
    elements = acceptable(name, elements)
    with elman.connect(demo_server.target) as client:
        with client.stream(name) as stream:
            assert same([stream.step(element) for element in elements], expected[name])
        with client.stream(name) as stream:
            assert same(stream.map(as_input(elements)), expected[name])
        assert same(client.predict(name, as_input(elements)), expected[name])


@pytest.mark.parametrize(("name", "elements"), BUNDLED_SESSIONS)
async def test_a_bundled_model_through_the_async_sdk(
    demo_server: ServerProcess, expected: dict[str, Any], name: str, elements: Sequence[Any]
) -> None:
    elements = acceptable(name, elements)
    async with elman.aio.connect(demo_server.target) as client:
        async with client.stream(name) as stream:
            assert same([await stream.step(element) for element in elements], expected[name])
        async with client.stream(name) as stream:
            found = [prediction async for prediction in stream.map(as_input(elements))]
            assert same(found, expected[name])
        assert same(await client.predict(name, as_input(elements)), expected[name])


async def test_500_sessions_at_random_equal_their_solo_runs(repository: Path) -> None:
    """Random chunks, random interleaving and random ends, over models of every kind of chunking."""
    rng = random.Random(500)
    paths = {
        "ragged": save_lstm(repository / "ragged/1/model.onnx", hidden=32, layers=2),
        "equal": save_lstm(repository / "equal/1/model.onnx", hidden=24, lengths=False),
        "single": save_lstm(
            repository / "single/1/model.onnx", hidden=16, lengths=False, time_axis=False
        ),
        "features": save(*leaky(width=1), repository / "features/1/model.onnx"),
    }
    oracles = {name: Oracle(path) for name, path in paths.items()}

    async def session(client: elman.aio.Client, name: str, elements: list[Any]) -> None:
        async with client.stream(name) as stream:
            found: list[elman.Prediction] = []
            pushed = 0
            while pushed < len(elements):
                count = min(rng.choice([1, 1, 1, 2, 5, 13, 70]), len(elements) - pushed)
                chunk = elements[pushed : pushed + count]
                await stream.push_many("".join(chunk) if name != "features" else np.array(chunk))
                pushed += count
                while len(found) < pushed and rng.random() < 0.6:
                    found.append(await anext(stream))
            ended_early = rng.random() < 0.3
            if ended_early:
                return
            await stream.close()
            found += [prediction async for prediction in stream]
        assert same(found, oracles[name].run(elements))

    with ServerProcess(str(repository), "--max-batch-size", "64") as server:
        async with elman.aio.connect(server.target) as client, asyncio.TaskGroup() as tasks:
            for _ in range(500):
                name = rng.choice(list(paths))
                length = rng.choice([1, 3, 20, 60, 150])
                elements: list[Any] = (
                    [np.array([rng.gauss(0, 1)], np.float32) for _ in range(length)]
                    if name == "features"
                    else rng.choices(ALPHABET, k=length)
                )
                tasks.create_task(session(client, name, elements))
        assert server.metric("elman_sessions_opened_total") == 500
        assert server.metric("elman_steps_total") < server.metric("elman_elements_total") / 4
