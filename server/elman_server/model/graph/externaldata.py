"""External data: inlines the values of constants stored outside the model's own file.

External values must be in the model's own folder, because an untrusted model could otherwise name
any file that the server may read. Allowed are the folder of the model's path and, if the path is a
link, the folder of the link's target: in a cache such as Hugging Face's, a model's files are links
into a shared folder.

Export and server share this module. Constants are onnx.proto messages, of either side's own
classes.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from elman_server.model.graph import onnxproto
from elman_server.model.ordinaryfile import open_ordinary

MAX_BYTES = 2**31 - 1
"""Bytes of a model, constants included. Protobuf allows no larger message."""

_MOST_AXES = 64


class ExternalDataError(ValueError):
    """Error for missing or forbidden external values. The message names the location and what is
    allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """Allowed locations of a model's external values."""

    path: str
    """Base folder of relative locations."""
    roots: tuple[str, ...]
    """Allowed folders, as real paths."""

    @staticmethod
    def of(model: str | Path) -> "Folder":
        path = os.path.dirname(os.path.abspath(model))
        real = os.path.dirname(os.path.realpath(model))
        return Folder(path=path, roots=(os.path.realpath(path), real))


def inline(tensors: Iterable[Any], folder: Folder, allowed: int) -> int | None:
    """Inlines the values of all external constants, at most `allowed` bytes.

    Returns the number of bytes inlined, or None if no constant was external. Raises
    `ExternalDataError` if a constant's values are not in a regular file in the folder.
    """
    fetched = None
    for tensor in tensors:
        if tensor.data_location != onnxproto.EXTERNAL and not tensor.external_data:
            continue
        try:
            values = _fetch(tensor, folder, allowed - (fetched or 0))
        except ExternalDataError as error:
            raise ExternalDataError(f"constant {_text(tensor.name)!r}: {error}") from None
        fetched = (fetched or 0) + len(values)
        tensor.raw_data = values
        del tensor.external_data[:]
        tensor.data_location = 0
    return fetched


def _fetch(tensor: Any, folder: Folder, allowed: int) -> bytes:
    entries = {_text(each.key): _text(each.value) for each in tensor.external_data}
    location = entries.get("location", "")
    if not location:
        raise ExternalDataError("its values lie outside of the file, which does not say where")
    named = f"its values lie in {location[:200]!r}"
    if "\0" in location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise ExternalDataError(f"{named}; allowed is a file in the model's own folder")
    path = os.path.realpath(os.path.join(folder.path, location))
    if not any(os.path.commonpath([root, path]) == root for root in folder.roots):
        raise ExternalDataError(f"{named}, which leads out of the model's own folder")
    nbytes = size(tensor)
    if tensor.data_type == onnxproto.STRING:
        raise ExternalDataError(f"{named}; strings are kept in the model's file alone")
    offset, length = _number(entries, "offset", 0), _number(entries, "length", nbytes)
    if length != nbytes:
        raise ExternalDataError(
            f"{named}, {length} bytes; its shape {list(tensor.dims)} takes {nbytes}"
        )
    if nbytes > allowed:
        raise ExternalDataError(f"{named}, {nbytes:,} bytes; of those allowed are left {allowed:,}")
    try:
        file, available = open_ordinary(path)
        with file:
            if offset + length > available:
                raise ExternalDataError(
                    f"{named} at {offset} to {offset + length}; that file has {available} bytes"
                )
            file.seek(offset)
            values = file.read(length)
    except OSError as error:
        raise ExternalDataError(f"{named}: {error.strerror}") from None
    if len(values) != length:
        raise ExternalDataError(f"{named}, a file that became shorter while it was read")
    return values


def size(tensor: Any) -> int:
    """Returns the bytes of a constant's values by shape and type; 0 for strings.

    Raises `ExternalDataError` for an invalid or too large shape, or an unknown type.
    """
    shape = list(tensor.dims)
    if min(shape, default=0) < 0 or len(shape) > _MOST_AXES:
        raise ExternalDataError(
            f"its shape is {shape[:_MOST_AXES]}; sizes are not negative, axes at most {_MOST_AXES}"
        )
    if tensor.data_type == onnxproto.STRING:
        return 0
    bits = onnxproto.bits(tensor.data_type)
    if bits is None:
        raise ExternalDataError(f"its type {tensor.data_type} is none of ONNX's")
    nbytes: int = (prod(shape) * bits + 7) // 8
    if nbytes > MAX_BYTES:
        raise ExternalDataError(
            f"its shape {shape} takes {nbytes:,} bytes; at most {MAX_BYTES:,} fit"
        )
    return nbytes


def _number(entries: Mapping[str, str], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ExternalDataError(
            f"the {key} of its values is {text[:40]!r}; it must be a number of bytes"
        )
    return int(text)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")
