"""A terminal hands over keys at once, and is left as it was found."""

import os
import pty
import termios
from collections.abc import Iterator

import pytest

from elman.cli.terminal.modes import keys


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """(keyboard, what the program reads)"""
    keyboard, descriptor = pty.openpty()
    yield keyboard, descriptor
    os.close(keyboard)
    os.close(descriptor)


def test_a_key_is_read_before_its_line_has_ended(terminal: tuple[int, int]) -> None:
    keyboard, descriptor = terminal
    with keys(descriptor):
        os.write(keyboard, b"g")
        assert os.read(descriptor, 10) == b"g"


def test_what_was_typed_ahead_is_kept(terminal: tuple[int, int]) -> None:
    keyboard, descriptor = terminal
    os.write(keyboard, b"go")
    with keys(descriptor):
        assert os.read(descriptor, 10) == b"go"


def test_ctrl_d_is_a_key_too(terminal: tuple[int, int]) -> None:
    keyboard, descriptor = terminal
    with keys(descriptor):
        os.write(keyboard, b"\x04")
        assert os.read(descriptor, 10) == b"\x04"


def test_the_terminal_is_restored_even_after_an_error(terminal: tuple[int, int]) -> None:
    _, descriptor = terminal
    before = termios.tcgetattr(descriptor)
    with pytest.raises(KeyboardInterrupt), keys(descriptor):
        assert termios.tcgetattr(descriptor) != before
        raise KeyboardInterrupt
    assert termios.tcgetattr(descriptor) == before
