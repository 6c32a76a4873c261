"""Checks and packs the contexts of a session before the session is opened."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from elman._wire.arrays import pack
from elman._wire.model import Model
from elman.errors import InvalidRequest
from elman.v1 import inference_pb2 as pb

Contexts: TypeAlias = tuple[pb.ContextValue, ...]

_ENVELOPE_BYTES = 2048
"""Room in a message beside contexts."""


def pack_contexts(
    model: Model, arrays: Mapping[str, Any] | None, *, max_message_bytes: int
) -> Contexts:
    """Packs an array for each context of the model.

    Raises `InvalidRequest` for a missing or unknown context, for an invalid array, and for contexts
    too large for a message.
    """
    if arrays is None:
        arrays = {}
    if not isinstance(arrays, Mapping):
        raise InvalidRequest(
            f"context is {arrays!r}; allowed is a mapping from names to arrays: {_allowed(model)}"
        )
    names = [context.name for context in model.contexts]
    for name in arrays:
        if name not in names:
            raise InvalidRequest(f"context names {name!r}; {model.name!r} takes {_allowed(model)}")
    values = []
    for context in model.contexts:
        if context.name not in arrays:
            raise InvalidRequest(
                f"context lacks {context.name!r}; {model.name!r} takes {_allowed(model)}"
            )
        label = f"context {context.name!r}"
        raw = pack(
            arrays[context.name],
            context.dtype,
            context.shape,
            noun=label,
            name=label,
            model=model.name,
            error=InvalidRequest,
        )
        values.append(pb.ContextValue(name=context.name, raw=raw))
    size = contexts_bytes(values)
    if size and size + _ENVELOPE_BYTES > max_message_bytes:
        raise InvalidRequest(
            f"context takes {size} bytes; with max_message_bytes {max_message_bytes}, allowed are "
            f"{max_message_bytes - _ENVELOPE_BYTES}"
        )
    return tuple(values)


def contexts_bytes(values: "Contexts | list[pb.ContextValue]") -> int:
    """Size of contexts on the wire, in bytes."""
    return sum(value.ByteSize() + 8 for value in values)


def _allowed(model: Model) -> str:
    return ", ".join(map(str, model.contexts)) or "none"
