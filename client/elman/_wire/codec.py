"""Checks a caller's elements and packs them into a payload for the wire.

A payload is text (one character per element) or raw little-endian numbers. `Codec.unit` is the
number of payload items per element: `payload[i * unit : j * unit]` holds elements i to j - 1.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from math import isfinite, prod
from typing import Any, Protocol, TypeAlias

import numpy as np

from elman._wire.arrays import describe, kind, pack
from elman._wire.model import Input, InputKind, Model
from elman.errors import InvalidElement
from elman.v1 import inference_pb2 as pb

Payload: TypeAlias = str | bytes

_STRUCT_CODES = {
    "b1": "?",
    "f2": "e",
    "f4": "f",
    "f8": "d",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
}
"""Format characters of `struct` for the wire's types; numpy's own characters differ, and vary by
platform."""


class Codec(Protocol):
    """Checks and packs the elements of a model."""

    unit: int
    """Payload items per element: 1 character, or the element's bytes."""
    width: int
    """Largest size of an element on the wire, in bytes."""

    def one(self, element: Any) -> Payload:
        """Returns the payload of an element. Raises `InvalidElement`."""

    def many(self, elements: Any) -> Payload:
        """Returns the payload of a sequence of elements.

        Raises `InvalidElement` with the index of the first invalid element.
        """

    def join(self, parts: Iterable[Any]) -> Payload:
        """Concatenates payloads."""

    def place(self, message: pb.Push | pb.PredictRequest, payload: Any) -> None:
        """Puts a payload into the matching field of a message."""


def codec(model: Model) -> Codec:
    """Returns the codec for a model's input."""
    match model.input.kind:
        case InputKind.TEXT:
            return TextCodec(model.name, model.input)
        case InputKind.TOKENS:
            return TokenCodec(model.name, model.input)
        case InputKind.FEATURES:
            return FeatureCodec(model.name, model.input)


class TextCodec:
    """Codec for characters: `str` of length 1, within the vocabulary unless the model accepts
    unknown characters."""

    unit = 1
    width = 4

    def __init__(self, model: str, model_input: Input) -> None:
        self._model = model
        self._symbols = frozenset(model_input.vocabulary)
        self._accepts_unknown = model_input.accepts_unknown

    def one(self, element: Any) -> str:
        if type(element) is str and element in self._symbols:
            return element
        if not isinstance(element, str):
            raise InvalidElement(
                f"an element of {self._model!r} is a str of one character, not {kind(element)}"
            )
        if len(element) != 1:
            raise InvalidElement(
                f"an element of {self._model!r} is one character; {_short(element)} has "
                f"{len(element)}: use push_many, map or predict for several"
            )
        return self.many(element)

    def many(self, elements: Any) -> str:
        if not isinstance(elements, str):
            if not _iterable(elements) or isinstance(elements, bytes | bytearray):
                raise InvalidElement(f"elements of {self._model!r} are a str, not {kind(elements)}")
            return "".join(_each(self.one, elements))
        strange = set(elements) - self._symbols
        if self._accepts_unknown:
            strange = {symbol for symbol in strange if "\ud800" <= symbol <= "\udfff"}
        if strange:
            i = next(i for i, symbol in enumerate(elements) if symbol in strange)
            where = f"elements[{i}] is" if len(elements) > 1 else "the element is"
            raise InvalidElement(
                f"{where} {elements[i]!r}, which is not among the {len(self._symbols)} characters "
                f"of {self._model!r}: {_short(''.join(sorted(self._symbols)), 100)}"
            )
        return elements

    def join(self, parts: Iterable[str]) -> str:
        return "".join(parts)

    def place(self, message: pb.Push | pb.PredictRequest, payload: str) -> None:
        message.text = payload


class TokenCodec:
    """Codec for ids in [0, size), or for their names if the model has a vocabulary."""

    def __init__(self, model: str, model_input: Input) -> None:
        assert model_input.dtype is not None
        self._model = model
        self._dtype = model_input.dtype
        self._size = model_input.size
        self._ids = {name: i for i, name in enumerate(model_input.vocabulary)}
        self._pack = _packer(model_input.dtype)
        self.unit = self.width = model_input.dtype.itemsize

    def one(self, element: Any) -> bytes:
        if type(element) is int and 0 <= element < self._size:
            return self._pack(element)
        return self._pack(self._id(element))

    def many(self, elements: Any) -> bytes:
        if isinstance(elements, str) or not _iterable(elements):
            raise InvalidElement(
                f"elements of {self._model!r} are a sequence of {self._allowed()}, "
                f"not {kind(elements)}"
            )
        if isinstance(elements, np.ndarray) and elements.dtype.kind in "iu" and elements.ndim == 1:
            wrong = np.flatnonzero((elements < 0) | (elements >= self._size))
            if len(wrong):
                raise InvalidElement(
                    f"elements[{wrong[0]}] is {elements[wrong[0]]}; {self._model!r} takes "
                    f"{self._allowed()}"
                )
            return elements.astype(self._dtype).tobytes()
        return b"".join(_each(self.one, elements))

    def join(self, parts: Iterable[bytes]) -> bytes:
        return b"".join(parts)

    def place(self, message: pb.Push | pb.PredictRequest, payload: bytes) -> None:
        message.raw = payload

    def _id(self, element: Any) -> int:
        if isinstance(element, str) and element in self._ids:
            return self._ids[element]
        if isinstance(element, int | np.integer) and not isinstance(element, bool):
            if 0 <= element < self._size:
                return int(element)
        elif not isinstance(element, str):
            raise InvalidElement(
                f"an element of {self._model!r} is {self._allowed()}, not {kind(element)}"
            )
        raise InvalidElement(f"the element is {element!r}; {self._model!r} takes {self._allowed()}")

    def _allowed(self) -> str:
        ids = f"ids from 0 to {self._size - 1}"
        return f"{ids} or their names" if self._ids else ids


class FeatureCodec:
    """Codec for arrays of the input's shape, with all values finite in the input's dtype."""

    def __init__(self, model: str, model_input: Input) -> None:
        assert model_input.dtype is not None
        self._model = model
        self._dtype = model_input.dtype
        self._shape = model_input.shape
        floating = model_input.dtype.kind == "f"
        self._scalar = _packer(model_input.dtype) if floating else None
        self.unit = self.width = model_input.dtype.itemsize * prod(model_input.shape)

    def one(self, element: Any) -> bytes:
        if type(element) is float and not self._shape and self._scalar and isfinite(element):
            try:
                return self._scalar(element)
            except OverflowError:
                pass
        return self._pack(element, self._shape, "an element", "the element")

    def many(self, elements: Any) -> bytes:
        if not isinstance(elements, np.ndarray):
            if isinstance(elements, str | bytes) or not _iterable(elements):
                raise InvalidElement(
                    f"elements of {self._model!r} are an array or a sequence of "
                    f"{self._allowed()}, not {kind(elements)}"
                )
            elements = list(elements)
            if not elements:
                return b""
        return self._pack(elements, (None, *self._shape), "elements", "elements")

    def join(self, parts: Iterable[bytes]) -> bytes:
        return b"".join(parts)

    def place(self, message: pb.Push | pb.PredictRequest, payload: bytes) -> None:
        message.raw = payload

    def _pack(self, value: Any, shape: tuple[int | None, ...], noun: str, name: str) -> bytes:
        return pack(
            value,
            self._dtype,
            shape,
            noun=noun,
            name=name,
            model=self._model,
            error=InvalidElement,
        )

    def _allowed(self) -> str:
        return describe(self._dtype, self._shape)


def _packer(dtype: np.dtype) -> Callable[[Any], bytes]:
    """Returns a function to pack one number of the dtype, little-endian."""
    return struct.Struct("<" + _STRUCT_CODES[f"{dtype.kind}{dtype.itemsize}"]).pack


def _iterable(elements: Any) -> bool:
    """Whether `elements` can be iterated; an array without axes has `__iter__` but cannot."""
    return isinstance(elements, Iterable) and getattr(elements, "ndim", 1) != 0


def _each(one: Any, elements: Iterable[Any]) -> Iterable[Any]:
    for i, element in enumerate(elements):
        try:
            yield one(element)
        except InvalidElement as error:
            raise InvalidElement(f"elements[{i}]: {error}") from None


def _short(text: str, limit: int = 20) -> str:
    return repr(text if len(text) <= limit else text[:limit] + "...")


def is_sequence(elements: Any) -> bool:
    """Whether all elements are available already, as opposed to an iterator or a live source."""
    return isinstance(elements, str | bytes | Sequence | np.ndarray)
