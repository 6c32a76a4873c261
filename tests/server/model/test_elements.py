"""Elements are read as they were meant, or refused with what was wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman_server.errors import InvalidElement
from elman_server.model.elements import ElementCodec
from elman_server.model.spec import InputKind, InputSpec


def text(vocabulary: str, unknown: int | None = None) -> ElementCodec:
    return ElementCodec(
        InputSpec(
            name="ids",
            kind=InputKind.TEXT,
            dtype="int64",
            size=len(vocabulary),
            vocabulary=tuple(vocabulary),
            unknown=unknown,
        )
    )


def tokens(size: int) -> ElementCodec:
    return ElementCodec(InputSpec(name="ids", kind=InputKind.TOKENS, dtype="int32", size=size))


def features(*shape: int) -> ElementCodec:
    return ElementCodec(
        InputSpec(name="x", kind=InputKind.FEATURES, dtype="float32", shape=tuple(shape))
    )


def decoded(codec: ElementCodec, payload: str | bytes) -> tuple[list[object], list[bool] | None]:
    result = codec.decode(payload)
    return (
        result.elements.tolist(),
        None if result.invalid is None else result.invalid.tolist(),
    )


def test_a_character_is_one_element_with_its_place_in_the_vocabulary() -> None:
    assert decoded(text("cab"), "abc") == ([1, 2, 0], None)


def test_characters_beyond_the_basic_plane_are_one_element_each() -> None:
    assert decoded(text("a😀𝄞"), "😀a𝄞") == ([1, 0, 2], None)


def test_combining_characters_are_elements_of_their_own() -> None:
    assert decoded(text("e\u0301é"), "e\u0301é") == ([0, 1, 2], None)


@pytest.mark.parametrize("stranger", ["b", "d", "\0", "\U0010ffff", "😀"])
def test_a_character_outside_the_vocabulary_is_invalid(stranger: str) -> None:
    assert decoded(text("ac"), f"a{stranger}c")[1] == [False, True, False]


@pytest.mark.parametrize("stranger", ["b", "d", "\0", "\U0010ffff", "😀"])
def test_a_character_outside_the_vocabulary_is_the_unknown_id_where_there_is_one(
    stranger: str,
) -> None:
    assert decoded(text("?ac", unknown=0), f"a{stranger}c") == ([1, 0, 2], None)


@given(st.text(min_size=1), st.data())
def test_every_text_of_the_vocabulary_comes_back(symbols: str, data: st.DataObject) -> None:
    vocabulary = "".join(sorted(set(symbols)))
    line = data.draw(st.text(st.sampled_from(vocabulary)))
    ids, invalid = decoded(text(vocabulary), line)
    assert ids == [vocabulary.index(symbol) for symbol in line]
    assert invalid is None


def test_ids_in_range_are_taken_as_they_are() -> None:
    assert decoded(tokens(3), np.array([0, 2, 1], "<i4").tobytes()) == ([0, 2, 1], None)


def test_ids_out_of_range_are_invalid() -> None:
    payload = np.array([-1, 0, 2, 3, 2**31 - 1], "<i4").tobytes()
    assert decoded(tokens(3), payload)[1] == [True, False, False, True, True]


def test_features_are_cut_into_elements_of_their_shape() -> None:
    codec = features(2, 3)
    numbers = np.arange(12, dtype="<f4")
    assert codec.decode(numbers.tobytes()).elements.tolist() == numbers.reshape(2, 2, 3).tolist()


def test_a_feature_may_be_a_scalar() -> None:
    codec = features()
    assert decoded(codec, np.array([1, np.nan], "<f4").tobytes())[1] == [False, True]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_invalid(value: float) -> None:
    payload = np.array([[1, 2], [3, value], [5, 6]], "<f4").tobytes()
    assert decoded(features(2), payload)[1] == [False, True, False]


@pytest.mark.parametrize(
    ("codec", "payload"),
    [(text("a"), ""), (tokens(2), b""), (features(), b""), (features(2, 3), b"")],
)
def test_nothing_is_no_elements(codec: ElementCodec, payload: str | bytes) -> None:
    assert decoded(codec, payload) == ([], None)


@pytest.mark.parametrize(
    ("codec", "payload", "message"),
    [
        (text("ab"), b"ab", "elements came as 'raw'; the model takes text, so send 'text'"),
        (tokens(2), "ab", "elements came as 'text'; the model takes tokens, so send 'raw'"),
        (features(2), "ab", "elements came as 'text'; the model takes features, so send 'raw'"),
        (
            tokens(2),
            bytes(7),
            "7 bytes of elements are no multiple of 4, the size of one element (int32, shape [])",
        ),
        (
            features(2, 3),
            bytes(25),
            "25 bytes of elements are no multiple of 24, the size of one element (float32, shape "
            "[2, 3])",
        ),
    ],
)
def test_a_payload_of_the_wrong_kind_or_size_is_refused(
    codec: ElementCodec, payload: str | bytes, message: str
) -> None:
    with pytest.raises(InvalidElement) as caught:
        codec.decode(payload)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("codec", "payload", "message"),
    [
        (text("ab"), "aé", "character 'é' is not in the model's vocabulary: 'ab'"),
        (text("ab"), "a\n", "character '\\n' is not in the model's vocabulary: 'ab'"),
        (
            text("".join(map(chr, range(97, 197)))),
            "aA",
            f"character 'A' is not in the model's vocabulary: "
            f"{''.join(map(chr, range(97, 137))) + '... (100 characters)'!r}",
        ),
        (
            tokens(3),
            np.array([0, 3], "<i4").tobytes(),
            "id 3 is out of range; allowed is 0 to 2",
        ),
        (
            features(2),
            np.array([[0, 1], [2, np.inf]], "<f4").tobytes(),
            "value inf at index 1 of the features; all must be finite",
        ),
    ],
)
def test_an_explanation_names_what_came_and_what_is_allowed(
    codec: ElementCodec, payload: str | bytes, message: str
) -> None:
    assert codec.explain(codec.decode(payload), 1) == message
