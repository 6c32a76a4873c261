"""Elements: decoding from the wire format to a model's input format."""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman_server.errors import InvalidElement
from elman_server.model.spec import InputKind, InputSpec

_SHOWN = 40
_KNOWN = 4096
"""Characters in the cache of decoded payloads."""
SLICE_ELEMENTS = 16_384
"""Elements of a payload decoded at a time. Other tasks run between two such parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Elements of a payload."""

    elements: NDArray[Any]
    """`[n, *shape]` in the input's type."""
    source: NDArray[Any]
    """The received code points, ids or features."""
    invalid: NDArray[np.bool_] | None
    """`[n]`: whether each element is invalid for the model. None if all elements are valid."""


class ElementCodec:
    """Decodes payloads of elements for a single model."""

    def __init__(self, spec: InputSpec) -> None:
        self._spec = spec
        self._dtype = np.dtype(spec.dtype).newbyteorder("<")
        self.nbytes = self._dtype.itemsize * prod(spec.shape)
        """Bytes of an element in the model's input."""
        if spec.kind is InputKind.TEXT:
            # The last entry stands for all code points above the vocabulary's largest.
            outside = -1 if spec.unknown is None else spec.unknown
            self._ids = np.full(max(map(ord, spec.vocabulary)) + 2, outside, spec.dtype)
            self._known: dict[str, Decoded] = {}
            """Cache of single characters, the payloads of people who type."""
            self._ids[[ord(symbol) for symbol in spec.vocabulary]] = np.arange(spec.size)

    def part(self, payload: str | bytes, start: int, stop: int) -> str | bytes:
        """Returns elements `start` to `stop - 1` of a valid payload (see `check`)."""
        size = 1 if isinstance(payload, str) else self.nbytes
        return payload[start * size : stop * size]

    def check(self, payload: str | bytes) -> None:
        """Checks a payload. Raises `InvalidElement` if the kind is wrong or the last element is
        incomplete."""
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
        """Decodes a payload: text for a text model, raw little-endian numbers for other models.

        Raises `InvalidElement` as `check` does.
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
        """Returns the number of elements in a valid payload, without decoding."""
        return len(payload) if isinstance(payload, str) else len(payload) // self.nbytes

    def explain(self, decoded: Decoded, index: int) -> str:
        """Returns why an element is invalid."""
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
