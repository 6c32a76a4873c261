"""Text typed to a model, key by key."""

import codecs
import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

import click

from elman import ElmanError, InvalidRequest, Stream
from elman.cli.elements import Element
from elman.cli.printing import Printer
from elman.cli.terminal.history import History
from elman.cli.terminal.keyboard import Key, Keyboard, Typed

_CHUNK = 65_536
_SEQUENCE_SECONDS = 0.1
"""Timeout for the rest of an escape sequence, in seconds; a single key sends no more bytes."""
_PIECE = 256
"""Elements of a paste between two tickets."""

Open = Callable[[bytes | None], Stream]
"""Opens a session, from a ticket or from the initial state."""


def bursts(descriptor: int, signals: int | None = None) -> Iterator[list[Typed]]:
    """Yields typed keys as they arrive: a key, or all keys of a paste. Ends with Ctrl-D or end of
    file.

    `signals`: a descriptor, readable after a signal. Waking up runs the signal's handler.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    keyboard = Keyboard()
    while True:
        patience = _SEQUENCE_SECONDS if keyboard.is_waiting else None
        if sys.platform != "win32":  # which has no `select` for consoles, only lines
            watched = [descriptor, *([] if signals is None else [signals])]
            ready = select.select(watched, [], [], patience)[0]
            if not ready:
                yield list(keyboard.time_out())
            if signals in ready:
                os.read(signals, _CHUNK)
            if descriptor not in ready:
                continue
        chunk = os.read(descriptor, _CHUNK)
        keys = list(keyboard.feed(decoder.decode(chunk)))
        if not chunk or Key.END in keys:
            yield keys[: keys.index(Key.END)] if chunk else []
            return
        yield keys


class Typing:
    """Sessions of a text model, in sequence."""

    def __init__(
        self,
        open_: Open,
        printer: Printer,
        *,
        allowed: frozenset[str] | None,
        splits: bool,
        fixed: str = "",
        one: bool = False,
    ) -> None:
        """Sets the rules of typing.

        `allowed`: characters of the model; None for all.
        `splits`: whether Enter ends a session.
        `fixed`: reason why Backspace cannot work; empty if Backspace works.
        `one`: whether all sessions are a single named session opened repeatedly.
        """
        self._open = open_
        self._printer = printer
        self._allowed = allowed
        self._splits = splits
        self._fixed = fixed
        self._one = one
        self._stream: Stream | None = None
        self._history = History()
        self._number = 0

    def run(self, bursts: Iterable[list[Typed]]) -> None:
        """Pushes typed text until the input ends."""
        try:
            for keys in bursts:
                for kind, group in groupby(keys, self._kind):
                    if kind is None:
                        self._push("".join(map(str, group)))
                    else:
                        for key in group:
                            self._press(key)
        finally:
            self._end()

    def _kind(self, key: Typed) -> Typed | None:
        """Returns a control key as such; None for a key to push."""
        if isinstance(key, Key) or (key == "\n" and self._splits):
            return key
        return None if self._allowed is None or key in self._allowed else Key.OTHER

    def _press(self, key: Typed) -> None:
        if key == "\n":
            self._end()
        elif key is Key.BACKSPACE:
            self._take_back()
        else:
            _ring()

    def _end(self) -> None:
        """Ends the session; the next key begins a new session."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            self._history = History()
            self._number += not self._one

    def _push(self, text: str) -> None:
        for first in range(0, len(text), _PIECE):
            if self._stream is None:
                self._stream = self._open(None)
            piece = text[first : first + _PIECE]
            for element, prediction in zip(piece, self._stream.map(piece), strict=True):
                shown = Element(value=element, text=element)
                self._printer.prediction(self._number, shown, prediction)
            self._history.typed(piece)
            self._keep()

    def _keep(self) -> None:
        if not self._fixed and self._stream is not None:
            try:
                self._history.keep(self._stream.ticket())
            except InvalidRequest as error:
                self._fixed = str(error)

    def _take_back(self) -> None:
        way = self._history.back()
        if self._stream is None or way is None:
            _ring()
            return
        if self._fixed:
            self._say(self._fixed)
            return
        try:
            earlier = self._open(way.ticket)
            for _ in earlier.map(way.repeat):
                pass
        except ElmanError as error:
            self._say(str(error))
            return
        self._stream.close()
        self._stream = earlier
        self._history.went_back()
        self._printer.taken_back(self._number, self._history.position, way.taken_back)

    def _say(self, reason: str) -> None:
        click.echo(f"Backspace can't take back: {reason}", err=True)


def _ring() -> None:
    click.echo("\a", nl=False, err=True)
