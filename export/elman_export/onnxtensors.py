"""The constants in an ONNX model: every one, wherever it stands, with its values in the model.

The values of a constant may lie in another file, which the model names. `inline` fetches them from
the model's own folder, and from nowhere else. `check` finds constants that say another shape than
they have values for.
"""

import os
from collections.abc import Iterator
from math import prod
from pathlib import Path

from onnx import AttributeProto, ModelProto, TensorProto, helper

from elman_export.errors import ExportError
from elman_export.onnxnodes import graphs, nodes
from elman_export.ordinaryfile import open_ordinary

MAX_BYTES = 2**31 - 1
"""What a model may take, constants included: protobuf holds no more."""

_PACKED: dict[int, int] = {
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    TensorProto.UINT2: 2,
    TensorProto.INT2: 2,
}
"""Types of less than a byte, and their bits."""


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every constant: initializers and attributes, sparse ones as their parts."""
    for graph in graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for function in model.functions:
        for attribute in function.attribute_proto:
            yield from _of(attribute)
    for node in nodes(model):
        for attribute in node.attribute:
            yield from _of(attribute)


def _of(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for each in (*sparse, *attribute.sparse_tensors):
        yield from (each.values, each.indices)


def inline(model: ModelProto, folder: Path, size: int) -> None:
    """Brings the values of every constant into the model, which takes `size` bytes so far.

    Raises `ExportError` for a constant whose values do not lie inside of a file in `folder`.
    """
    for tensor in tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data:
            continue
        try:
            values = _fetch(tensor, folder, MAX_BYTES - size)
        except ValueError as error:
            raise ExportError(f"constant {tensor.name!r}: {error}") from None
        size += len(values)
        tensor.raw_data = values
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT


def _fetch(tensor: TensorProto, folder: Path, allowed: int) -> bytes:
    """Raises `ValueError` for what is not there or not allowed."""
    entries = {each.key: each.value for each in tensor.external_data}
    location = entries.get("location", "")
    named = f"its values lie in {location!r}"
    if not location:
        raise ValueError("its values lie outside of the file, which does not say where")
    if "\0" in location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise ValueError(f"{named}; allowed is a file in the model's own folder")
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, location))
    if os.path.commonpath([root, path]) != root:
        raise ValueError(f"{named}, which leads out of the model's own folder")
    nbytes = _nbytes(tensor)
    offset, length = _number(entries, "offset", 0), _number(entries, "length", nbytes)
    if length != nbytes:
        raise ValueError(f"{named}, {length} bytes; its shape {list(tensor.dims)} takes {nbytes}")
    if nbytes > allowed:
        raise ValueError(f"{named}, with which the model takes more than {MAX_BYTES:,} bytes")
    try:
        file, size = open_ordinary(path)
        with file:
            if offset + length > size:
                raise ValueError(
                    f"{named} at {offset} to {offset + length}; that file has {size} bytes"
                )
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        raise ValueError(f"{named}: {error.strerror}") from None


def _number(entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"the {key} of its values is {text[:40]!r}; it must be a number of bytes")
    return int(text)


def check(model: ModelProto) -> None:
    """Raises `ExportError` for a constant that has not as many values as its shape says."""
    for tensor in tensors(model):
        try:
            _check(tensor)
        except ValueError as error:
            raise ExportError(f"constant {tensor.name!r}: {error}") from None


def _check(tensor: TensorProto) -> None:
    nbytes = _nbytes(tensor)
    if tensor.data_type == TensorProto.STRING:
        found, wanted, unit = len(tensor.string_data), prod(tensor.dims), "strings"
    elif tensor.HasField("raw_data"):
        found, wanted, unit = len(tensor.raw_data), nbytes, "bytes"
    else:
        field = helper.tensor_dtype_to_field(tensor.data_type)
        found, wanted, unit = len(getattr(tensor, field)), prod(tensor.dims), "values"
        if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
            wanted *= 2
        if tensor.data_type in _PACKED:
            wanted = nbytes
    if found != wanted:
        raise ValueError(f"its shape {list(tensor.dims)} takes {wanted} {unit}; it has {found}")


def _nbytes(tensor: TensorProto) -> int:
    """What the values take, by shape and type. Raises `ValueError` for absurd ones."""
    shape = list(tensor.dims)
    if min(shape, default=0) < 0 or len(shape) > 64:
        raise ValueError(f"its shape is {shape[:64]}; sizes are not negative, axes at most 64")
    if tensor.data_type == TensorProto.STRING:
        return 0
    if tensor.data_type in _PACKED:
        nbytes = (prod(shape) * _PACKED[tensor.data_type] + 7) // 8
    else:
        try:
            nbytes = prod(shape) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        except KeyError:
            raise ValueError(f"its type {tensor.data_type} is none of ONNX's") from None
    if nbytes > MAX_BYTES:
        raise ValueError(f"its shape {shape} takes {nbytes:,} bytes; at most {MAX_BYTES:,} fit")
    return nbytes
