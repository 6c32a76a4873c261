"""What is typed or piped becomes the elements of one session after another."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from elman import Input, InputKind, InvalidElement
from elman.cli.elements import characters, sequences

TEXT = Input(
    kind=InputKind.TEXT,
    dtype=None,
    shape=(),
    size=3,
    vocabulary=("a", "b", "é"),
    accepts_unknown=False,
)
PROSE = Input(
    kind=InputKind.TEXT,
    dtype=None,
    shape=(),
    size=2,
    vocabulary=("a", "\n"),
    accepts_unknown=False,
)
TOKENS = Input(
    kind=InputKind.TOKENS,
    dtype=np.dtype("<i8"),
    shape=(),
    size=100,
    vocabulary=(),
    accepts_unknown=False,
)


WORDS = replace(TOKENS, size=4, vocabulary=("<start>", "tea", "2", "an hour"))


def features(*shape: int) -> Input:
    return Input(
        kind=InputKind.FEATURES,
        dtype=np.dtype("<f4"),
        shape=shape,
        size=0,
        vocabulary=(),
        accepts_unknown=False,
    )


def values(text: str, given: Input) -> list[list[object]]:
    """By session, the elements' values as Python objects."""
    return [
        [v.tolist() if isinstance(v := element.value, np.ndarray) else v for element in session]
        for session in sequences(text, given)
    ]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for descriptor in (read, write):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_characters_come_without_waiting_for_more(pipe: tuple[int, int]) -> None:
    read, write = pipe
    found = characters(read)
    os.write(write, b"a")
    assert next(found) == "a"
    os.write(write, b"b")
    assert next(found) == "b"
    os.close(write)
    assert list(found) == []


def test_a_character_cut_in_two_by_a_pipe_is_whole_again(pipe: tuple[int, int]) -> None:
    read, write = pipe
    first, second = "é".encode()[:1], "é".encode()[1:]
    found = characters(read)
    os.write(write, b"a" + first)
    assert next(found) == "a"
    os.write(write, second + b"b")
    assert next(found) == "é"
    assert next(found) == "b"


def test_ctrl_d_ends_the_characters(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.write(write, b"ab\x04a")
    assert "".join(characters(read)) == "ab"


def test_a_line_is_a_session_of_a_model_without_a_line_end() -> None:
    assert values("ab\na\r\n\n\nbb", TEXT) == [["a", "b"], ["a"], ["b", "b"]]


def test_a_line_end_is_an_element_of_a_model_that_knows_it() -> None:
    assert values("a\n\na\n", PROSE) == [["a", "\n", "\n", "a", "\n"]]


def test_nothing_is_no_session() -> None:
    assert values("", TEXT) == values("\n\n", TEXT) == values("\n \n", TOKENS) == []


def test_ids_stand_one_on_a_line_and_an_empty_line_ends_a_session() -> None:
    assert values("1\n 22 \n\n3", TOKENS) == [[1, 22], [3]]


def test_a_token_may_be_given_by_its_name_and_is_shown_with_it() -> None:
    (session,) = ([*each] for each in sequences("tea\n0\n2\nan hour\n1\n9\n", WORDS))
    assert [element.value for element in session] == [1, 0, 2, 3, 1, 9]
    assert [element.text for element in session] == [
        *("1 tea", "0 <start>", "2 2", "3 an hour", "1 tea", "9")
    ]


def test_numbers_are_separated_by_blanks_or_commas() -> None:
    assert values("1 2\n3, 4.5\n-1e3,0\n", features(2)) == [[[1, 2], [3, 4.5], [-1000, 0]]]
    assert values("1.5\n", features()) == [[1.5]]
    assert values("1 2 3 4", features(2, 2)) == [[[[1, 2], [3, 4]]]]


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        ("1\ntwo\n", TOKENS, "line 2 is 'two'; expected is an id"),
        ("1.5", TOKENS, "line 1 is '1.5'; expected is an id"),
        ("coffee", WORDS, "line 1 is 'coffee'; expected is an id or a name, such as '<start>'"),
        ("1\n\nx", features(), "line 3 is 'x'; expected is a number"),
        ("1 2 3", features(2), "line 1 is '1 2 3'; expected is 2 numbers, with blanks or commas"),
    ],
)
def test_what_are_no_numbers_is_refused_by_its_line(text: str, given: Input, message: str) -> None:
    with pytest.raises(InvalidElement, match=f"^{message}"):
        values(text, given)


def test_elements_are_read_only_when_they_are_asked_for() -> None:
    taken = []

    def typed() -> Iterator[str]:
        for character in "ab\na":
            taken.append(character)
            yield character

    sessions = sequences(typed(), TEXT)
    assert taken == []
    first = next(sessions)
    assert next(first).value == "a"
    assert taken == ["a"]
