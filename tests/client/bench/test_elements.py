"""Random payloads that a model takes."""

from typing import Any

import numpy as np
import pytest

from elman import Input, InputKind, Model
from elman.bench.elements import Elements
from elman.v1 import inference_pb2 as pb


def model(**input: Any) -> Model:
    given = {"dtype": None, "shape": (), "size": 0, "vocabulary": (), "accepts_unknown": False}
    return Model(
        name="m",
        version="1",
        fingerprint="",
        description="",
        state_bytes=0,
        input=Input(**{**given, **input}),
        outputs=(),
        contexts=(),
    )


LETTERS = model(kind=InputKind.TEXT, size=3, vocabulary=("a", "é", "𝄞"))
IDS = model(kind=InputKind.TOKENS, size=7, dtype=np.dtype("<i8"))
FRAMES = model(kind=InputKind.FEATURES, dtype=np.dtype("<f4"), shape=(2, 3))


def payload(of: Model, start: int, count: int) -> str | bytes:
    push = pb.Push()
    Elements.of(of, seed=0).put(push, start, count)
    return push.text or push.raw


@pytest.mark.parametrize("start", [0, 5, 65_530, 65_536, 1_000_000])
@pytest.mark.parametrize("count", [1, 100, 150_000])
def test_a_payload_holds_as_many_elements_as_asked_for(start: int, count: int) -> None:
    text, ids, frames = (payload(each, start, count) for each in (LETTERS, IDS, FRAMES))
    assert isinstance(text, str) and isinstance(ids, bytes)
    assert len(text) == count and set(text) <= set("aé𝄞")
    numbers = np.frombuffer(ids, "<i8")
    assert len(numbers) == count and numbers.min() >= 0 and numbers.max() < 7
    assert len(frames) == count * 24


def test_the_pool_goes_round() -> None:
    whole, end, begin = (payload(LETTERS, *at) for at in ((65_530, 10), (65_530, 6), (0, 4)))
    assert whole == f"{end!s}{begin!s}"
