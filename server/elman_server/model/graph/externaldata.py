"""The values of constants that a model keeps outside of its own file, fetched into it.

They may lie in the model's own folder and nowhere else: a file that is served may be a stranger's,
and what it names is read with the rights of the server. The folder is that of the model's path or,
where the path is a link, that of the file which it leads to: in a cache such as Hugging Face's the
files of a model are links into one folder.

Export and server share this. The constants are messages of onnx.proto, by either's own classes.
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
"""What a model may take, constants included: protobuf holds no more."""

_MOST_AXES = 64


class ExternalDataError(ValueError):
    """Values that are not there, or that may not be read; the message says where they are to be,
    and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """Where a model's constants may lie."""

    path: str
    """What a constant's location is relative to."""
    roots: tuple[str, ...]
    """Real paths of the folders in which it may end up."""

    @staticmethod
    def of(model: str | Path) -> "Folder":
        path = os.path.dirname(os.path.abspath(model))
        real = os.path.dirname(os.path.realpath(model))
        return Folder(path=path, roots=(os.path.realpath(path), real))


def inline(tensors: Iterable[Any], folder: Folder, allowed: int) -> int | None:
    """Brings the values of each constant into the model; returns how many bytes that were, at most
    `allowed`, or None if all were there.

    Raises `ExternalDataError` for a constant whose values do not lie in an ordinary file in the
    folder.
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
    """Bytes that a constant's values take by shape and type, 0 for strings. Raises
    `ExternalDataError` for absurd ones."""
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
