"""What a terminal sends becomes characters and keys, wherever its pieces end."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.cli.terminal.keyboard import Key, Keyboard, Typed

ESC = "\x1b"
ARROWS = [f"{ESC}[A", f"{ESC}OB", f"{ESC}[1;5C", f"{ESC}[1;2D", f"{ESC}O5D", f"{ESC}{ESC}[A"]
FUNCTIONS = [f"{ESC}OP", f"{ESC}[15~", f"{ESC}[24;2~", f"{ESC}[[A", f"{ESC}[[E", f"{ESC}[Z"]
OTHERS = [
    f"{ESC}[3~",
    f"{ESC}[H",
    f"{ESC}[<0;12;7M",
    f"{ESC}[?1;2c",
    f"{ESC}x",
    "\x01",
    "\x17",
    "\x9bA",
]
PASTE = f"{ESC}[200~", f"{ESC}[201~"
ANSWERS = [f"{ESC}]11;rgb:0000/0000/0000\a", f"{ESC}]10;rgb:ff/ff{ESC}\\", f"{ESC}P1$r0m{ESC}\\"]


def keys(*pieces: str) -> list[Typed]:
    keyboard = Keyboard()
    return [key for piece in pieces for key in keyboard.feed(piece)]


def test_text_is_its_characters() -> None:
    assert keys("gö 🙂\t.") == ["g", "ö", " ", "🙂", "\t", "."]


def test_enter_is_a_line_end_however_the_terminal_sends_it() -> None:
    assert keys("a\rb\n") == ["a", "\n", "b", "\n"]


def test_backspace_and_ctrl_d_are_keys() -> None:
    assert keys("a\x7f\b\x04") == ["a", Key.BACKSPACE, Key.BACKSPACE, Key.END]


@pytest.mark.parametrize("sequence", [*ARROWS, *FUNCTIONS, *OTHERS])
def test_a_key_that_is_no_character_is_one_key(sequence: str) -> None:
    assert keys(f"a{sequence}b") == ["a", Key.OTHER, "b"]


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_the_terminal_answers_is_no_key(answer: str) -> None:
    assert keys(f"a{answer}b") == ["a", "b"]


def test_of_a_paste_only_the_text_is_typed() -> None:
    before, after = PASTE
    assert keys(f"{before}good\n{after}!") == [*"good\n!"]


def test_an_escape_that_nothing_follows_is_a_key() -> None:
    keyboard = Keyboard()
    assert list(keyboard.feed(ESC)) == []
    assert [keyboard.is_waiting, *keyboard.time_out(), keyboard.is_waiting] == [
        *(True, Key.OTHER, False)
    ]
    assert list(keyboard.feed("[A")) == ["[", "A"]
    assert list(keyboard.time_out()) == []


@pytest.mark.parametrize("begun", [ESC, f"{ESC}[1;", f"{ESC}O", f"{ESC}]11;rgb", f"{ESC}[["])
def test_a_line_end_and_ctrl_d_end_whatever_has_begun(begun: str) -> None:
    assert keys(f"{begun}\na") == [Key.OTHER, "\n", "a"]
    assert keys(f"{begun}\x04") == [Key.OTHER, Key.END]


def test_a_character_that_no_sequence_holds_is_typed() -> None:
    assert keys(f"{ESC}[1é") == [Key.OTHER, "é"]


@given(
    st.lists(st.sampled_from([*ARROWS, *FUNCTIONS, *OTHERS, *PASTE, *ANSWERS, "a", "\n", "\x7f"])),
    st.data(),
)
def test_it_does_not_matter_where_a_read_ends(sent: Sequence[str], data: st.DataObject) -> None:
    text = "".join(sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert keys(*pieces) == keys(text)


@given(st.text(st.characters(codec="utf-8")))
def test_nothing_that_is_no_text_comes_through(text: str) -> None:
    typed = [key for key in keys(text) if isinstance(key, str)]
    assert all(len(key) == 1 and (key in "\n\t" or key >= " ") for key in typed)
    assert not {"\x7f", "\x9b", ESC} & set(typed)
