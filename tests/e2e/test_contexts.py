"""Sessions that begin from what they are given, through both SDKs and the shell, against a real
server."""

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import elman
import elman.aio
from tests.oracle import Oracle
from tests.serverprocess import ServerProcess
from tests.stepmodels import (
    ALPHABET,
    STYLES,
    Shape,
    caption,
    lstm,
    one_row,
    save,
    save_conditioned,
    tilted,
)

PROGRAM = str(Path(sys.executable).with_name("elman"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "ragged": save_conditioned(caption(Shape(layers=2)), root / "ragged/1/model.onnx"),
        "equal": save_conditioned(caption(Shape(lengths=False)), root / "equal/1/model.onnx"),
        "single": save_conditioned(
            caption(Shape(time_axis=False, lengths=False)), root / "single/1/model.onnx"
        ),
        "tilted": save_conditioned(tilted(), root / "tilted/1/model.onnx"),
        "alone": save(*one_row(lstm(Shape())), root / "alone/1/model.onnx"),
        "alone_at_once": save(
            *one_row(lstm(Shape(time_axis=False, lengths=False))),
            root / "alone_at_once/1/model.onnx",
        ),
    }


@pytest.fixture(scope="module")
def server(paths: dict[str, Path]) -> Iterator[ServerProcess]:
    repository = paths["ragged"].parents[2]
    with ServerProcess(str(repository), "--max-batch-size", "64") as server:
        yield server


@pytest.fixture(scope="module")
def oracles(paths: dict[str, Path]) -> dict[str, Oracle]:
    return {name: Oracle(path) for name, path in paths.items()}


def given(number: int) -> dict[str, Any]:
    """The context of a caption, another for each number."""
    rng = np.random.default_rng(number)
    return {
        "image": rng.normal(size=12).astype(np.float32),
        "style": number % STYLES,
        "gain": rng.normal(size=8).astype(np.float32),
    }


def same(predictions: Iterable[elman.Prediction], expected: list[dict[str, Any]]) -> bool:
    found = [prediction["next"].tobytes() for prediction in predictions]
    return found == [row["next"].tobytes() for row in expected]


async def test_200_sessions_of_different_contexts_equal_their_solo_runs(
    server: ServerProcess, oracles: dict[str, Oracle]
) -> None:
    """All at once, in random chunks; as they end, others take their slots."""
    rng = random.Random(200)

    async def session(client: elman.aio.Client, number: int) -> None:
        name = ("ragged", "equal", "single")[number % 3]
        text = "".join(rng.choices(ALPHABET, k=rng.randint(1, 80)))
        async with client.stream(name, context=given(number)) as stream:
            found: list[elman.Prediction] = []
            pushed = 0
            while pushed < len(text):
                part = text[pushed : pushed + rng.choice([1, 1, 2, 5, 13])]
                await stream.push_many(part)
                pushed += len(part)
                while len(found) < pushed and rng.random() < 0.6:
                    found.append(await anext(stream))
            if rng.random() < 0.3:
                return
            await stream.close()
            found += [prediction async for prediction in stream]
        assert same(found, oracles[name].run(text, given(number)))

    async def lane(client: elman.aio.Client, numbers: Iterable[int]) -> None:
        for number in numbers:
            await session(client, number)

    steps = server.metric("elman_steps_total")
    elements = server.metric("elman_elements_total")
    async with elman.aio.connect(server.target) as client, asyncio.TaskGroup() as tasks:
        for first in range(200):
            tasks.create_task(lane(client, (first, 200 + first)))
    steps = server.metric("elman_steps_total") - steps
    assert steps < (server.metric("elman_elements_total") - elements) / 4


def test_threads_whose_streams_have_contexts_of_their_own(
    server: ServerProcess, oracles: dict[str, Oracle]
) -> None:
    equal = dict.fromkeys(range(32), False)
    with elman.connect(server.target) as client:

        def run(number: int) -> None:
            for turn in (number, 100 + number):
                with client.stream("ragged", context=given(turn)) as stream:
                    first = stream.step("a")
                    found = [first, *stream.map("bcdefg")]
            equal[number] = same(found, oracles_of_threads[number])

        oracles_of_threads = {
            number: oracles["ragged"].run("abcdefg", given(100 + number)) for number in equal
        }
        threads = [threading.Thread(target=run, args=(number,)) for number in equal]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(equal.values())


def test_every_next_session_in_a_slot_has_nothing_of_the_last(server: ServerProcess) -> None:
    """`y = h = 0.5 h + x + tilt`, and `h` begins as twice the start."""
    with elman.connect(server.target) as client:
        for start, tilt in ((1000, 500), (1, 2), (4, 0), (-2, 1)):
            context = {"start": [start], "tilt": [tilt]}
            with client.stream("tilted", context=context) as stream:
                first = start + tilt
                assert [p["y"].item() for p in stream.map([[0], [1]])] == [
                    first,
                    first / 2 + 1 + tilt,
                ]


@pytest.mark.parametrize("count", [1, 30])
async def test_whole_sequences_are_predicted_with_their_contexts(
    server: ServerProcess, oracles: dict[str, Oracle], count: int
) -> None:
    async with elman.aio.connect(server.target) as client:
        found = await asyncio.gather(
            *(client.predict("ragged", "abcdef", context=given(n)) for n in range(count))
        )
    with elman.connect(server.target) as client:
        again = [client.predict("ragged", "abcdef", context=given(n)) for n in range(count)]
    for number, pair in enumerate(zip(found, again, strict=True)):
        expected = oracles["ragged"].run("abcdef", given(number))
        assert all(same(predictions, expected) for predictions in pair)


def test_a_sequence_is_generated_from_a_context(
    server: ServerProcess, oracles: dict[str, Oracle]
) -> None:
    """One to many: a context and a first symbol in, a sequence out."""
    texts = set()
    with elman.connect(server.target) as client:
        for number in range(5):
            with client.stream("ragged", context=given(number)) as stream:
                text = "".join(stream.generate("a", length=20, temperature=0))
            oracle = oracles["ragged"]
            oracle.reset(given(number))
            expected, symbol = "", "a"
            for _ in range(20):
                symbol = ALPHABET[int(oracle.step(symbol)["next"].argmax())]
                expected += symbol
            assert text == expected
            texts.add(text)
    assert len(texts) > 1


def test_contexts_that_the_model_fails_on_end_their_session_alone(
    server: ServerProcess, oracles: dict[str, Oracle]
) -> None:
    with elman.connect(server.target) as client:
        good = client.stream("ragged", context=given(1))
        bad = client.stream("ragged", context={**given(1), "style": STYLES})
        with pytest.raises(elman.ServerError, match="to make the session's state from its context"):
            bad.step("a")
        with pytest.raises(elman.ServerError, match="to make the session's state from its context"):
            client.predict("ragged", "abc", context={**given(1), "style": -STYLES - 1})
        assert same(good.map("abc"), oracles["ragged"].run("abc", given(1)))
        good.close()


# Models that take one row only.


@pytest.mark.parametrize("name", ["alone", "alone_at_once"])
async def test_64_sessions_of_a_model_that_takes_one_row(
    server: ServerProcess, oracles: dict[str, Oracle], name: str
) -> None:
    rng = random.Random(64)
    texts = ["".join(rng.choices(ALPHABET, k=rng.randint(1, 60))) for _ in range(64)]

    async def session(client: elman.aio.Client, text: str) -> None:
        async with client.stream(name) as stream:
            found = [await stream.step(text[0])]
            found += [prediction async for prediction in stream.map(text[1:])]
        assert same(found, oracles[name].run(text))

    async with elman.aio.connect(server.target) as client, asyncio.TaskGroup() as tasks:
        for text in texts:
            tasks.create_task(session(client, text))
    steps = server.metric("elman_steps_total", model=name)
    assert server.metric("elman_step_batch_size_sum", model=name) == steps


def test_nobody_is_warned_of_a_model_that_says_that_it_takes_one_row(server: ServerProcess) -> None:
    ready = {line["model"]: line for line in server.log if line["event"] == "model ready"}
    assert ready["alone"]["max_batch_size"] == ready["alone_at_once"]["max_batch_size"] == 1
    assert ready["ragged"]["max_batch_size"] == 64
    assert "warning" not in {line["level"] for line in server.log}


# From the shell.


def run(server: ServerProcess, *args: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [PROGRAM, *args],
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, "ELMAN_TARGET": server.target, "COLUMNS": "200"},
        timeout=60,
    )


def test_stream_gives_each_session_the_context(server: ServerProcess, tmp_path: Path) -> None:
    context = given(3)
    np.save(tmp_path / "image.npy", context["image"])
    options = [
        *("--context", f"image={tmp_path / 'image.npy'}"),
        *("--context", f"style={context['style']}"),
        *("--context", f"gain={','.join(map(repr, context['gain'].tolist()))}"),
    ]
    result = run(server, "stream", "ragged", *options, "--json", stdin="abc\nabc\n")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["session"], line["position"]) for line in lines] == [
        (session, position) for session in range(2) for position in range(3)
    ]
    with elman.connect(server.target) as client:
        expected = client.predict("ragged", "abc", context=context, outputs=elman.Top("next", 5))
    for line in lines:
        shown = expected[line["position"]].top(5)
        assert line["outputs"]["next"] == [entry._asdict() for entry in shown]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["ragged"], 2, "'ragged' needs --context image=..., 12 numbers with commas between"),
        (["tilted", "--context", "start=1"], 2, "'tilted' needs --context tilt=..., a number"),
        (
            ["tilted", "--context", "start=1", "--context", "tilt=nan"],
            1,
            "context 'tilt'[0] is nan; 'tilted' takes finite numbers within float32",
        ),
        (["alone", "--context", "start=1"], 2, "--context start: 'alone' takes none"),
        (
            ["tilted", "--context", "start"],
            2,
            "'start' is no context; expected is NAME=FILE.npy, or NAME= and numbers with commas",
        ),
    ],
)
def test_a_context_that_does_not_fit_is_one_line(
    server: ServerProcess, args: list[str], code: int, message: str
) -> None:
    result = run(server, "stream", *args, stdin="1\n")
    assert result.returncode == code
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_models_shows_what_sessions_are_given(server: ServerProcess) -> None:
    assert (
        "once image float32[12], style int64, gain float32[8] -> " in run(server, "models").stdout
    )
    documents = {each["name"]: each for each in json.loads(run(server, "models", "--json").stdout)}
    assert documents["tilted"]["contexts"] == [
        {"name": "start", "dtype": "float32", "shape": [1]},
        {"name": "tilt", "dtype": "float32", "shape": [1]},
    ]
    assert documents["alone"]["contexts"] == []
