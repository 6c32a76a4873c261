"""Decodes a terminal's input into keys: characters, a few control keys, and all others.

Arrow keys, function keys, pastes and answers of the terminal arrive as escape sequences (ECMA-48),
not as text. Does no I/O; the caller decides when a sequence has timed out.
"""

from collections.abc import Iterator
from enum import Enum, auto


class Key(Enum):
    """A key other than a character."""

    BACKSPACE = auto()
    END = auto()
    """Ctrl-D."""
    OTHER = auto()
    """A key without a function here, such as an arrow."""


Typed = str | Key
"""A character, "\\n" for Enter, or a key."""


class _State(Enum):
    PLAIN = auto()
    ESCAPE = auto()
    """After ESC."""
    SEQUENCE = auto()
    """After ESC [: up to a letter or one of @~{|}."""
    SHIFTED = auto()
    """After ESC O: one character, possibly after digits."""
    CONSOLE = auto()
    """After ESC [ [: one character. The Linux console sends F1 to F5 like this."""
    STRING = auto()
    """An answer of the terminal: up to BEL or ESC \\."""
    STRING_END = auto()
    """After ESC in an answer of the terminal."""


_PASTE = ("200~", "201~")
"""Sequences around a paste. The paste itself is text; the sequences are not keys."""
_AFTER_ESCAPE = {"[": _State.SEQUENCE, "O": _State.SHIFTED} | dict.fromkeys("]PX^_", _State.STRING)
_CONTROLS = {"\x7f": Key.BACKSPACE, "\b": Key.BACKSPACE, "\x04": Key.END}
_ONE_CHARACTER = {  # C1 characters: each replaces ESC and a second character
    "\x8f": _State.SHIFTED,
    "\x9b": _State.SEQUENCE,
    **dict.fromkeys("\x90\x98\x9d\x9e\x9f", _State.STRING),
}


class Keyboard:
    """Decodes input in pieces, which may end anywhere."""

    def __init__(self) -> None:
        self._state = _State.PLAIN
        self._parameters = ""

    @property
    def is_waiting(self) -> bool:
        """Whether the input so far may be the beginning of a sequence."""
        return self._state is not _State.PLAIN

    def feed(self, text: str) -> Iterator[Typed]:
        """Yields the complete keys."""
        for character in text:
            yield from self._take(character)

    def time_out(self) -> Iterator[Typed]:
        """Ends a sequence after a time-out: the Escape key was pressed alone."""
        if self.is_waiting:
            self._state = _State.PLAIN
            yield Key.OTHER

    def _take(self, character: str) -> Iterator[Typed]:
        match self._state:
            case _State.PLAIN:
                yield from self._plain(character)
            case _ if character in "\r\n\x04":
                # No escape sequence contains these characters.
                yield from self._done()
                yield from self._plain(character)
            case _State.STRING:
                if character == "\x1b":
                    self._state = _State.STRING_END
                elif character in "\a\x9c":
                    self._state = _State.PLAIN
            case _State.STRING_END:
                self._state = _State.PLAIN
                if character != "\\":
                    yield from self._escaped(character)
            case _ if character == "\x1b":
                # Begins the sequence of an Alt key or of the next key.
                self._state = _State.ESCAPE
            case _ if character > "\x7e":
                yield from self._done()
                yield from self._plain(character)
            case _State.ESCAPE:
                yield from self._escaped(character)
            case _State.SEQUENCE:
                if character == "[" and not self._parameters:
                    self._state = _State.CONSOLE
                elif character >= "@":
                    pasted = self._parameters + character in _PASTE
                    yield from () if pasted else self._done()
                    self._state = _State.PLAIN
                else:
                    self._parameters += character
            case _State.SHIFTED:
                if not character.isdecimal():
                    yield from self._done()
            case _State.CONSOLE:
                yield from self._done()

    def _plain(self, character: str) -> Iterator[Typed]:
        if character == "\x1b":
            self._state = _State.ESCAPE
        elif character in _ONE_CHARACTER:
            self._enter(_ONE_CHARACTER[character])
        elif character in "\r\n":
            yield "\n"
        elif character == "\t" or not ("\x00" <= character < " " or "\x7f" <= character < "\xa0"):
            yield character
        else:
            yield _CONTROLS.get(character, Key.OTHER)

    def _escaped(self, character: str) -> Iterator[Typed]:
        if character in _AFTER_ESCAPE:
            self._enter(_AFTER_ESCAPE[character])
        else:
            yield from self._done()

    def _enter(self, state: _State) -> None:
        self._state = state
        self._parameters = ""

    def _done(self) -> Iterator[Typed]:
        self._state = _State.PLAIN
        yield Key.OTHER
