"""Elements typed or piped: characters, or a line of numbers per element.

A sequence ends with the session: after a line, for a text model without a newline character; after
an empty line, for numbers.
"""

import codecs
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from elman import Input, InputKind, InvalidElement

_CHUNK = 65_536
_END_OF_TRANSMISSION = "\x04"
"""Ctrl-D from a terminal in raw mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """An element: the value to push, and the text of the input."""

    value: str | int | np.ndarray
    text: str


def characters(descriptor: int) -> Iterator[str]:
    """Reads UTF-8 characters as they arrive, until the end of the input or Ctrl-D."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    while chunk := os.read(descriptor, _CHUNK):
        text, ended, _ = decoder.decode(chunk).partition(_END_OF_TRANSMISSION)
        yield from text
        if ended:
            return
    yield from decoder.decode(b"", final=True)


def sequences(text: Iterable[str], model_input: Input) -> Iterator[Iterator[Element]]:
    """Yields the elements of one session after another; exhaust a session before taking the next.

    Tokens are ids, or names if the model has names. Input is read only on demand. Raises
    `InvalidElement` with the line for invalid numbers.
    """
    elements = (
        _letters(text, model_input)
        if model_input.kind is InputKind.TEXT
        else _numbers(text, model_input)
    )
    for first in elements:
        if first is not None:
            yield _session(first, elements)


def _session(first: Element, elements: Iterator[Element | None]) -> Iterator[Element]:
    yield first
    for element in elements:
        if element is None:
            return
        yield element


def _letters(text: Iterable[str], model_input: Input) -> Iterator[Element | None]:
    splits = "\n" not in model_input.vocabulary
    for character in text:
        if splits and character in "\r\n":
            yield None
        else:
            yield Element(value=character, text=character)


def _numbers(text: Iterable[str], model_input: Input) -> Iterator[Element | None]:
    # An id takes precedence over a name in digits.
    ids = {name: id_ for id_, name in enumerate(model_input.vocabulary) if not name.isdecimal()}
    for number, line in enumerate(_lines(text), 1):
        try:
            yield _numeric(line, model_input, ids) if line else None
        except ValueError:
            expected = (
                _ids(model_input)
                if model_input.kind is InputKind.TOKENS
                else _numerals(model_input.shape)
            )
            raise InvalidElement(f"line {number} is {line!r}; expected is {expected}") from None


def _numeric(line: str, model_input: Input, ids: Mapping[str, int]) -> Element:
    if model_input.kind is InputKind.TOKENS:
        value = int(line) if (id_ := ids.get(line)) is None else id_
        named = 0 <= value < len(model_input.vocabulary)
        return Element(
            value=value, text=f"{value} {model_input.vocabulary[value]}" if named else line
        )
    numbers = [float(word) for word in line.replace(",", " ").split()]
    return Element(value=np.array(numbers).reshape(model_input.shape), text=line)


def _ids(model_input: Input) -> str:
    if not model_input.vocabulary:
        return "an id"
    return f"an id or a name, such as {model_input.vocabulary[0]!r}"


def _numerals(shape: tuple[int, ...]) -> str:
    count = prod(shape)
    return "a number" if count == 1 else f"{count} numbers, with blanks or commas between"


def _lines(text: Iterable[str]) -> Iterator[str]:
    line: list[str] = []
    for character in text:
        if character == "\n":
            yield "".join(line).strip()
            line.clear()
        else:
            line.append(character)
    if line:
        yield "".join(line).strip()
