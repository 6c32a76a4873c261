"""Whatever is done to a model's file: it loads, or is refused in one line. It crashes, hangs and
fills nothing but the child that loads it."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import onnx
import pytest
import pytest_asyncio
from onnx import helper

from elman_server.config import ServerConfig
from elman_server.errors import ModelLoadError
from elman_server.model import modelfile
from elman_server.model.modelfile import ModelFileError
from elman_server.model.repository import ModelSource
from elman_server.model.spec import FINGERPRINT_KEY, SPEC_KEY
from elman_server.serving.loading.children import Children
from elman_server.serving.loading.loader import Loader
from tests.stepmodels import (
    Shape,
    caption,
    leaky,
    lstm,
    save,
    save_conditioned,
    spinning,
    tilted,
)

CONFIG = ServerConfig(demo=True, max_batch_size=3, max_chunk=3, load_timeout=20)
SECONDS = 100
"""For one file, and all that it may do within its limits."""

Mutation = Callable[[random.Random, bytes], bytes]


def flipped(rng: random.Random, data: bytes) -> bytes:
    """Some bits."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    """An end, a beginning, or something in between, is gone."""
    start, stop = sorted(rng.sample(range(len(data) + 1), 2))
    return rng.choice([data[:start], data[stop:], data[:start] + data[stop:]])


def repeated(rng: random.Random, data: bytes) -> bytes:
    """A part stands twice, or in another's place."""
    start, stop = sorted(rng.sample(range(len(data) + 1), 2))
    part, place = data[start : min(stop, start + 64)], rng.randrange(len(data))
    return data[:place] + part + data[place + rng.choice([0, len(part)]) :]


def extreme(rng: random.Random, data: bytes) -> bytes:
    """A number, as protobuf writes it, is as large or as negative as it can be."""
    place = rng.randrange(len(data))
    number = rng.choice([b"\xff\xff\xff\xff\x07", b"\xff" * 9 + b"\x01", b"\x80" * 8 + b"\x01"])
    return data[:place] + number + data[place + rng.choice([0, 1, len(number)]) :]


MUTATIONS: tuple[Mutation, ...] = (flipped, cut, repeated, extreme)


def signed(data: bytes) -> bytes:
    """With the fingerprint that its contents make, so that it is the graph that is tried and not
    the fingerprint. What is no model any more stays as it is."""
    try:
        model = onnx.ModelProto.FromString(data)
        props = {entry.key: entry.value for entry in model.metadata_props}
        body = model.SerializeToString()
        props[FINGERPRINT_KEY] = modelfile.fingerprint(body, props[SPEC_KEY])
        helper.set_model_props(model, props)
        return model.SerializeToString()
    except Exception:
        return data


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("originals")
    small = Shape(hidden=4, embedded=3, vocabulary="abcd")
    paths = [
        save(*lstm(small), folder / "0.onnx"),
        save(*leaky(width=2), folder / "1.onnx"),
        save(*spinning(3), folder / "2.onnx"),
        save_conditioned(caption(small), folder / "3.onnx"),
        save_conditioned(tilted(), folder / "4.onnx"),
    ]
    return [path.read_bytes() for path in paths]


@pytest_asyncio.fixture
async def loader() -> AsyncIterator[Loader]:
    with Children() as children:
        yield Loader(children)


def mutants(originals: list[bytes], seed: int, count: int) -> Iterator[bytes]:
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        data = rng.choice(originals)
        changed = rng.choice(MUTATIONS)(rng, data)
        yield signed(changed) if number % 4 else changed


async def outcome(loader: Loader, path: Path) -> str:
    """Empty for a model that loads."""
    try:
        async with asyncio.timeout(SECONDS):
            await loader.load(ModelSource(name="m", version="1", path=path), CONFIG)
    except ModelLoadError as error:
        return str(error)
    return ""


async def tried(loader: Loader, folder: Path, originals: list[bytes], seed: int, count: int) -> int:
    """How many of so many mutants load. What any of them does in the meantime is no matter of the
    others."""
    paths = []
    for number, data in enumerate(mutants(originals, seed, count)):
        paths.append(folder / f"{number}.onnx")
        paths[-1].write_bytes(data)
    outcomes = await asyncio.gather(*(outcome(loader, path) for path in paths))
    for path, said in zip(paths, outcomes, strict=True):
        if not said:
            continue
        assert said.startswith(f"{path}: "), said
        assert "\n" not in said and len(said) < 4000, said
        assert "Traceback" not in said and "answers nonsense" not in said, said
    return outcomes.count("")


async def test_a_few_hundred_altered_files_load_or_are_refused_in_one_line(
    loader: Loader, originals: list[bytes], tmp_path: Path
) -> None:
    loaded = await tried(loader, tmp_path, originals, seed=1990, count=400)
    # Some do: what was altered was a weight, or a name.
    assert 0 < loaded < 400


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
async def test_thousands_of_altered_files_load_or_are_refused_in_one_line(
    loader: Loader, originals: list[bytes], tmp_path: Path, seed: int
) -> None:
    await tried(loader, tmp_path, originals, seed=seed, count=500)


def test_thousands_of_altered_files_are_read_or_refused(
    originals: list[bytes], tmp_path: Path
) -> None:
    """Without being run: so that the reading is tried in every place."""
    path, refused = tmp_path / "m.onnx", 0
    for data in mutants(originals, 7, 3000):
        path.write_bytes(data)
        try:
            modelfile.read(path)
        except ModelFileError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
    assert 0 < refused < 3000


async def test_nothing_is_left_of_them(
    loader: Loader, originals: list[bytes], tmp_path: Path
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    await tried(loader, tmp_path, originals, seed=3, count=20)
    loader.close()
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) <= before
