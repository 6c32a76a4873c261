"""Contexts, given once when a session is opened: decoding from the wire format."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman_server.errors import InvalidRequest
from elman_server.model.spec import ContextSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenContext:
    """A context as received."""

    name: str
    raw: bytes
    """Little-endian numbers in C order."""


class ContextCodec:
    """Decodes the contexts of a model's sessions."""

    def __init__(self, specs: Sequence[ContextSpec]) -> None:
        self._specs = {spec.name: spec for spec in specs}

    def decode(self, given: Iterable[GivenContext]) -> dict[str, NDArray[Any]] | None:
        """Returns a session's contexts by name, `[*shape]` in the model's own types; None if the
        model takes no contexts.

        Raises `InvalidRequest` if a context is missing, unknown or given twice, has the wrong
        number of bytes, or holds a number that is not finite (for bool: not 0 or 1).
        """
        found: dict[str, NDArray[Any]] = {}
        for context in given:
            if context.name not in self._specs:
                allowed = ", ".join(self._specs) or "none"
                raise InvalidRequest(
                    f"context {context.name!r} is unknown; the model takes {allowed}"
                )
            if context.name in found:
                raise InvalidRequest(f"context {context.name!r} came twice; it is given once")
            found[context.name] = _decoded(self._specs[context.name], context.raw)
        for name, spec in self._specs.items():
            if name not in found:
                raise InvalidRequest(f"context {name!r} is missing; the model takes {_form(spec)}")
        return found or None


def _decoded(spec: ContextSpec, raw: bytes) -> NDArray[Any]:
    if len(raw) != spec.nbytes:
        raise InvalidRequest(
            f"context {spec.name!r} came as {len(raw)} bytes; allowed are {spec.nbytes} "
            f"({_form(spec)})"
        )
    if spec.dtype == "bool":
        numbers = np.frombuffer(raw, "u1")
        wrong, allowed = numbers > 1, "each must be 0 or 1"
    else:
        numbers = np.frombuffer(raw, np.dtype(spec.dtype).newbyteorder("<"))
        wrong, allowed = ~np.isfinite(numbers), "all must be finite"
    if wrong.any():
        index = int(wrong.argmax())
        raise InvalidRequest(
            f"value {numbers[index]} at index {index} of context {spec.name!r}; {allowed}"
        )
    return numbers.astype(spec.dtype, copy=False).reshape(spec.shape)


def _form(spec: ContextSpec) -> str:
    return f"{spec.dtype} of shape {list(spec.shape)}"
