"""Contexts are read as they were packed, or refused by name."""

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman_server.errors import InvalidRequest
from elman_server.model.contexts import ContextCodec, GivenContext
from elman_server.model.spec import ContextSpec, DType

IMAGE = ContextSpec(name="image", dtype="float32", shape=(2, 3))
STYLE = ContextSpec(name="style", dtype="int64")
MASK = ContextSpec(name="mask", dtype="bool", shape=(2,), input="mask")
CODEC = ContextCodec((IMAGE, STYLE, MASK))

GOOD: dict[str, bytes] = {
    "image": np.arange(6, dtype="<f4").tobytes(),
    "style": np.array(-3, "<i8").tobytes(),
    "mask": b"\1\0",
}


def sent(values: dict[str, bytes]) -> list[GivenContext]:
    return [GivenContext(name=name, raw=raw) for name, raw in values.items()]


@pytest.mark.parametrize("order", [["image", "style", "mask"], ["mask", "image", "style"]])
def test_contexts_are_read_by_name_whatever_their_order(order: list[str]) -> None:
    found = CODEC.decode(sent({name: GOOD[name] for name in order}))
    assert found is not None
    assert found["image"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (found["style"].item(), found["style"].shape) == (-3, ())
    assert found["mask"].tolist() == [True, False]
    assert [found[spec.name].dtype for spec in (IMAGE, STYLE, MASK)] == [
        np.float32,
        np.int64,
        np.bool_,
    ]


def test_a_model_without_contexts_takes_none() -> None:
    assert ContextCodec(()).decode([]) is None
    with pytest.raises(InvalidRequest) as caught:
        ContextCodec(()).decode(sent({"image": b""}))
    assert str(caught.value) == "context 'image' is unknown; the model takes none"


@pytest.mark.parametrize("dtype", get_args(DType))
@given(data=st.data())
def test_numbers_of_every_type_come_back(dtype: DType, data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=32, max_size=32))
    if dtype == "bool":
        raw = bytes(byte % 2 for byte in raw)
    shape = (32 // np.dtype(dtype).itemsize,)
    codec = ContextCodec([ContextSpec(name="x", dtype=dtype, shape=shape)])
    numbers = np.frombuffer(raw, np.dtype(dtype).newbyteorder("<"))
    if np.isfinite(numbers).all():
        found = codec.decode(sent({"x": raw}))
        assert found is not None
        assert found["x"].dtype == np.dtype(dtype)
        assert found["x"].tobytes() == numbers.astype(dtype).tobytes()
    else:
        with pytest.raises(InvalidRequest, match=r"at index \d+ of context 'x'; all must be fin"):
            codec.decode(sent({"x": raw}))


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image": None},
            "context 'image' is missing; the model takes float32 of shape [2, 3]",
        ),
        ({"style": None}, "context 'style' is missing; the model takes int64 of shape []"),
        ({"stile": b""}, "context 'stile' is unknown; the model takes image, style, mask"),
        (
            {"image": bytes(23)},
            "context 'image' came as 23 bytes; allowed are 24 (float32 of shape [2, 3])",
        ),
        (
            {"image": b""},
            "context 'image' came as 0 bytes; allowed are 24 (float32 of shape [2, 3])",
        ),
        (
            {"style": bytes(16)},
            "context 'style' came as 16 bytes; allowed are 8 (int64 of shape [])",
        ),
        (
            {"image": floats(0, 1, 2, float("nan"), 4, 5)},
            "value nan at index 3 of context 'image'; all must be finite",
        ),
        (
            {"image": floats(0, 1, 2, 3, 4, -float("inf"))},
            "value -inf at index 5 of context 'image'; all must be finite",
        ),
        ({"mask": b"\0\2"}, "value 2 at index 1 of context 'mask'; each must be 0 or 1"),
    ],
)
def test_what_does_not_fit_is_named_with_what_is_allowed(
    change: dict[str, Any], message: str
) -> None:
    values = {name: raw for name, raw in {**GOOD, **change}.items() if raw is not None}
    with pytest.raises(InvalidRequest) as caught:
        CODEC.decode(sent(values))
    assert str(caught.value) == message


def test_a_context_is_given_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        CODEC.decode([*sent(GOOD), *sent({"style": GOOD["style"]})])
    assert str(caught.value) == "context 'style' came twice; it is given once"
