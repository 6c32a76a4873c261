"""All constants of an ONNX model, with the values inside the model.

The values of a constant may lie in a second file, named by the model. `inline` loads values from
the model's own folder only. `check` finds constants with too many or too few values for their
shape.
"""

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from onnx import AttributeProto, ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

from elman_export.errors import ExportError
from elman_export.surgery.onnxnodes import graphs, nodes
from elman_server.model.graph import externaldata
from elman_server.model.graph.externaldata import MAX_BYTES, ExternalDataError, Folder, size

_PACKED = (
    TensorProto.UINT4,
    TensorProto.INT4,
    TensorProto.FLOAT4E2M1,
    TensorProto.UINT2,
    TensorProto.INT2,
)
"""Types of less than a byte."""


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every constant: initializers and attributes; a sparse constant as values and indices."""
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


def inline(model: ModelProto, path: Path, nbytes: int) -> None:
    """Loads the values of every constant into the model.

    `path` is the model's file, and `nbytes` its size so far. Raises `ExportError` if values do not
    lie inside a file in the model's folder.
    """
    try:
        externaldata.inline(tensors(model), Folder.of(path), MAX_BYTES - nbytes)
    except ExternalDataError as error:
        raise ExportError(str(error)) from None


def check(model: ModelProto) -> None:
    """Raises `ExportError` for a constant with more or fewer values than its shape."""
    for tensor in tensors(model):
        try:
            _check(tensor)
        except ValueError as error:
            raise ExportError(f"constant {tensor.name!r}: {error}") from None


def densify(model: ModelProto) -> None:
    """Writes sparse constants in full, in place: onnx-ir reads no others."""
    for graph in graphs(model):
        graph.initializer.extend(_dense(each) for each in graph.sparse_initializer)
        del graph.sparse_initializer[:]
    for node in nodes(model):
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("sparse_tensor"):
                value = _dense(attribute.sparse_tensor)
                attribute.CopyFrom(helper.make_attribute("value", value))


def _dense(sparse: SparseTensorProto) -> TensorProto:
    values = numpy_helper.to_array(sparse.values)
    places = numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if places.ndim == 1:
        dense.reshape(-1)[places] = values
    else:
        dense[tuple(places.T)] = values
    return numpy_helper.from_array(dense, sparse.values.name)


def _check(tensor: TensorProto) -> None:
    nbytes = size(tensor)
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
