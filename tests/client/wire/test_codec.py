"""Elements are checked and packed before they are sent."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import elman
from elman._wire.codec import Codec, codec
from elman._wire.model import Input, InputKind, Model


def of(
    kind: InputKind,
    *,
    dtype: str | None = None,
    shape: tuple[int, ...] = (),
    size: int = 0,
    vocabulary: str | list[str] = (),  # type: ignore[assignment]
    accepts_unknown: bool = False,
) -> Codec:
    given = Input(
        kind=kind,
        dtype=None if dtype is None else np.dtype(dtype),
        shape=shape,
        size=size or len(vocabulary),
        vocabulary=tuple(vocabulary),
        accepts_unknown=accepts_unknown,
    )
    return codec(
        Model(
            name="m",
            version="1",
            fingerprint="",
            description="",
            input=given,
            outputs=(),
            state_bytes=0,
        )
    )


TEXT = of(InputKind.TEXT, vocabulary="abä🎼")
OPEN_TEXT = of(InputKind.TEXT, vocabulary="ab", accepts_unknown=True)
TOKENS = of(InputKind.TOKENS, dtype="<i8", size=10)
NAMED = of(InputKind.TOKENS, dtype="<i4", vocabulary=["<s>", "the", "cat"])
SCALAR = of(InputKind.FEATURES, dtype="<f4")
HALF = of(InputKind.FEATURES, dtype="<f2", shape=(2,))
FRAME = of(InputKind.FEATURES, dtype="<f4", shape=(2, 3))


class Tensor:
    """One of another library, which refuses to become numpy's."""

    def __init__(self, refusal: Exception) -> None:
        self._refusal = refusal

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise self._refusal


@pytest.mark.parametrize(
    ("codec", "element", "payload"),
    [
        (TEXT, "a", "a"),
        (TEXT, "🎼", "🎼"),
        (TEXT, np.str_("ä"), "ä"),
        (OPEN_TEXT, "z", "z"),
        (TOKENS, 7, b"\7" + bytes(7)),
        (TOKENS, np.uint8(7), b"\7" + bytes(7)),
        (NAMED, "cat", b"\2\0\0\0"),
        (SCALAR, 1.0, b"\0\0\x80?"),
        (SCALAR, 1, b"\0\0\x80?"),
        (SCALAR, np.float64(1), b"\0\0\x80?"),
        (SCALAR, True, b"\0\0\x80?"),
        (HALF, [1, 0], b"\0<\0\0"),
        (FRAME, np.zeros((2, 3)), bytes(24)),
    ],
)
def test_an_element_is_packed(codec: Codec, element: Any, payload: str | bytes) -> None:
    assert codec.one(element) == payload
    assert len(payload) == codec.unit
    assert codec.many([element, element]) == payload * 2


@pytest.mark.parametrize(
    ("codec", "element", "message"),
    [
        (TEXT, "c", "the element is 'c', which is not among the 4 characters of 'm': 'abä🎼'"),
        (TEXT, "ab", "'ab' has 2: use push_many, map or predict"),
        (TEXT, "", "'' has 0"),
        (TEXT, 3, "a str of one character, not int"),
        (OPEN_TEXT, "\ud800", r"'\\ud800'"),
        (TOKENS, 10, "the element is 10; 'm' takes ids from 0 to 9"),
        (TOKENS, -1, "the element is -1; 'm' takes ids from 0 to 9"),
        (TOKENS, 1.0, "ids from 0 to 9, not float"),
        (TOKENS, True, "ids from 0 to 9, not bool"),
        (TOKENS, "the", "the element is 'the'"),
        (NAMED, "dog", "the element is 'dog'; 'm' takes ids from 0 to 2 or their names"),
        (SCALAR, float("nan"), "the element is nan; 'm' takes finite numbers within float32"),
        (SCALAR, 1e39, "the element is 1e\\+39"),
        (SCALAR, "1", "not str"),
        (SCALAR, None, "numbers of float32, not NoneType"),
        (SCALAR, [1], r"shape \[\], not \[1\]"),
        (SCALAR, 1j, "complex"),
        (HALF, [1, 70000], r"the element\[1\] is 70000; 'm' takes finite numbers within float16"),
        (FRAME, np.zeros((3, 2)), r"shape \[2, 3\], not \[3, 2\]"),
        (FRAME, [[1, 2, 3], [4]], "rows differ in length"),
        (FRAME, Tensor(RuntimeError("requires grad")), "shape .2, 3., not Tensor: requires grad"),
        (FRAME, Tensor(TypeError("BFloat16")), "shape .2, 3., not Tensor: BFloat16"),
    ],
)
def test_a_wrong_element_is_named_with_what_is_allowed(
    codec: Codec, element: Any, message: str
) -> None:
    with pytest.raises(elman.InvalidElement, match=message):
        codec.one(element)


@pytest.mark.parametrize(
    ("codec", "elements", "message"),
    [
        (TEXT, "abc", r"elements\[2\] is 'c'"),
        (TEXT, ["a", "ab"], r"elements\[1\]: .*'ab' has 2"),
        (TEXT, 3, "a str, not int"),
        (TEXT, b"ab", "a str, not bytes"),
        (TEXT, np.array(1), r"a str, not array\[\]"),
        (TOKENS, np.array(1), r"a sequence of ids from 0 to 9, not array\[\]"),
        (TOKENS, "12", "a sequence of ids from 0 to 9, not str"),
        (TOKENS, [1, 12], r"elements\[1\]: the element is 12"),
        (TOKENS, np.array([1, 12]), r"elements\[1\] is 12"),
        (TOKENS, np.array([1.0]), r"elements\[0\]: "),
        (SCALAR, 1.0, "an array or a sequence of float32, not float"),
        (SCALAR, [1, np.inf], r"elements\[1\] is inf"),
        (SCALAR, [Tensor(RuntimeError("requires grad"))], "float32, not list: requires grad"),
        (SCALAR, [[1]], r"shape \[n\], not \[1, 1\]"),
        (HALF, np.zeros((5, 3)), r"shape \[n, 2\], not \[5, 3\]"),
        (HALF, [[0, 0], [0, np.nan]], r"elements\[1, 1\] is nan"),
    ],
)
def test_the_first_wrong_one_of_many_is_named_by_its_index(
    codec: Codec, elements: Any, message: str
) -> None:
    with pytest.raises(elman.InvalidElement, match=message):
        codec.many(elements)


@pytest.mark.parametrize("codec", [TEXT, TOKENS, SCALAR, HALF, FRAME])
def test_of_nothing_there_is_nothing(codec: Codec) -> None:
    assert not codec.many([])
    assert not codec.join([])


@given(st.lists(st.integers(0, 9)))
def test_ids_are_packed_alike_from_lists_and_arrays(ids: list[int]) -> None:
    expected = np.array(ids, "<i8").tobytes()
    assert TOKENS.many(ids) == TOKENS.many(np.array(ids, int)) == expected


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_features_are_packed_alike_one_by_one_and_together(values: list[float]) -> None:
    assert SCALAR.many(values) == SCALAR.join([SCALAR.one(value) for value in values])
