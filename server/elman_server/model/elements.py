"""Elements as they come over the wire, and as a model takes them."""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman_server.errors import InvalidElement
from elman_server.model.spec import InputKind, InputSpec

_SHOWN = 40
_KNOWN = 4096
"""Characters."""
SLICE_ELEMENTS = 16_384
"""Of a payload, what is read at once: between two such parts others have a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A payload's elements. `invalid[i]` says that element `i` does not fit the model; None says
    that all fit."""

    elements: NDArray[Any]
    """`[n, *shape]` in the input's type."""
    source: NDArray[Any]
    """What came: code points, ids or features."""
    invalid: NDArray[np.bool_] | None


class ElementCodec:
    """Reads the elements of one model, a payload at a time."""

    def __init__(self, spec: InputSpec) -> None:
        self._spec = spec
        self._dtype = np.dtype(spec.dtype).newbyteorder("<")
        self.nbytes = self._dtype.itemsize * prod(spec.shape)
        """Of an element, as the model takes it."""
        if spec.kind is InputKind.TEXT:
            # Its last entry stands for all code points beyond those of the vocabulary.
            outside = -1 if spec.unknown is None else spec.unknown
            self._ids = np.full(max(map(ord, spec.vocabulary)) + 2, outside, spec.dtype)
            self._known: dict[str, Decoded] = {}
            """Single characters, which are what comes of those who type."""
            self._ids[[ord(symbol) for symbol in spec.vocabulary]] = np.arange(spec.size)

    def part(self, payload: str | bytes, start: int, stop: int) -> str | bytes:
        """Elements `start` to `stop - 1` of a payload, which `check` accepts."""
        size = 1 if isinstance(payload, str) else self.nbytes
        return payload[start * size : stop * size]

    def check(self, payload: str | bytes) -> None:
        """Raises `InvalidElement` for a payload of the wrong kind, or that holds no whole number of
        elements."""
        spec = self._spec
        if isinstance(payload, str) is not (spec.kind is InputKind.TEXT):
            came = "text" if isinstance(payload, str) else "raw"
            wanted = "text" if spec.kind is InputKind.TEXT else "raw"
            raise InvalidElement(
                f"elements came as {came!r}; the model takes {spec.kind}, so send {wanted!r}"
            )
        if isinstance(payload, bytes) and len(payload) % self.nbytes:
            raise InvalidElement(
                f"{len(payload)} bytes of elements are no multiple of {self.nbytes}, the size of "
                f"one element ({spec.dtype}, shape {list(spec.shape)})"
            )

    def decode(self, payload: str | bytes) -> Decoded:
        """Reads a payload: text for a text model, raw little-endian numbers for the others.

        Raises what `check` does.
        """
        self.check(payload)
        spec = self._spec
        if isinstance(payload, str):
            known = self._known.get(payload)
            return self._read(payload) if known is None else known
        numbers = np.frombuffer(payload, self._dtype).reshape(-1, *spec.shape)
        if spec.kind is InputKind.TOKENS:
            return Decoded(
                elements=numbers,
                source=numbers,
                invalid=_any((numbers < 0) | (numbers >= spec.size)),
            )
        finite = np.isfinite(numbers).all(axis=tuple(range(1, numbers.ndim)))
        return Decoded(elements=numbers, source=numbers, invalid=_any(~finite))

    def _read(self, text: str) -> Decoded:
        codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
        ids = self._ids[np.minimum(codes, len(self._ids) - 1)]
        decoded = Decoded(elements=ids, source=codes, invalid=_any(ids < 0))
        if len(text) == 1 and len(self._known) < _KNOWN:
            self._known[text] = decoded
        return decoded

    def count(self, payload: str | bytes) -> int:
        """How many elements a payload holds, if it is one, without reading it."""
        return len(payload) if isinstance(payload, str) else len(payload) // self.nbytes

    def explain(self, decoded: Decoded, index: int) -> str:
        """What is wrong with an invalid element."""
        spec, came = self._spec, decoded.source[index]
        if spec.kind is InputKind.TEXT:
            allowed = "".join(spec.vocabulary)
            if len(allowed) > _SHOWN:
                allowed = f"{allowed[:_SHOWN]}... ({len(allowed)} characters)"
            return f"character {chr(came)!r} is not in the model's vocabulary: {allowed!r}"
        if spec.kind is InputKind.TOKENS:
            return f"id {came} is out of range; allowed is 0 to {spec.size - 1}"
        values = came.reshape(-1)
        where = int(np.argmin(np.isfinite(values)))
        return f"value {values[where]} at index {where} of the features; all must be finite"


def _any(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    return mask if mask.any() else None
