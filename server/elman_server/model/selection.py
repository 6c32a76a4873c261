"""Selections: the outputs of each prediction requested by a session, with their forms."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman_server.errors import InvalidRequest
from elman_server.model.spec import DType, OutputKind, OutputSpec

_MAX_REQUESTS = 64
"""A session may request an output in several forms, but each form costs time at every element."""


class Form(StrEnum):
    """Form of a requested output."""

    RAW = "raw"
    """The model's output, unchanged."""
    PROBABILITIES = "probabilities"
    TOP = "top"
    """The k largest entries of the last axis, with their indices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRequest:
    """Request for an output in a form."""

    name: str
    form: Form = Form.RAW
    k: int = 0
    """TOP only: the number of entries."""


_SMALL_NBYTES = 4096
"""Size in bytes from which a view is cheaper than a copy."""

Buffer = bytes | memoryview
"""Bytes, or a view of an array's bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedValues:
    """Raw little-endian bytes of a single requested output, for `n` predictions."""

    values: Buffer
    indices: Buffer = b""
    """TOP only: indices as uint32."""


class Selection:
    """Validated output requests for a model, in the requested order."""

    def __init__(self, requests: Iterable[OutputRequest], outputs: Iterable[OutputSpec]) -> None:
        """Validates requests. Without requests, selects every output as RAW. Raises
        `InvalidRequest`."""
        requests = list(requests)
        if len(requests) > _MAX_REQUESTS:
            raise InvalidRequest(
                f"{len(requests)} outputs are requested; allowed is {_MAX_REQUESTS}"
            )
        specs = {spec.name: spec for spec in outputs}
        self._columns = [_column(request, _named(request.name, specs)) for request in requests] or [
            _column(OutputRequest(name=name), spec) for name, spec in specs.items()
        ]
        self.names = frozenset(column.name for column in self._columns)
        self.element_nbytes = sum(column.element_nbytes for column in self._columns)

    def encode(self, outputs: Mapping[str, NDArray[Any]]) -> list[EncodedValues]:
        """Encodes `n` predictions. `outputs` maps names to arrays `[n, *shape]`."""
        return [column.encode(outputs[column.name]) for column in self._columns]

    def join(self, parts: Sequence[Sequence[EncodedValues]]) -> list[EncodedValues]:
        """Joins results of `encode` for consecutive predictions into a single result."""
        return [
            EncodedValues(
                values=b"".join(part[column].values for part in parts),
                indices=b"".join(part[column].indices for part in parts),
            )
            for column in range(len(self._columns))
        ]


class _Column:
    """An output in a form. Immutable."""

    __slots__ = ("_form", "_k", "_kind", "element_nbytes", "name")

    def __init__(
        self, request: OutputRequest, *, kind: OutputKind, dtype: DType, shape: tuple[int, ...]
    ) -> None:
        if request.form is Form.PROBABILITIES and kind is OutputKind.VALUES:
            raise InvalidRequest(
                f"output {request.name!r} holds values, which have no probabilities; ask for it raw"
            )
        if request.form is Form.TOP:
            length = shape[-1] if shape else 0
            if not 1 <= request.k <= length:
                allowed = f"allowed is 1 to {length}" if length else "it is a scalar, so has no top"
                raise InvalidRequest(f"k is {request.k} for output {request.name!r}; {allowed}")
        elif request.k:
            raise InvalidRequest(f"k is {request.k} for output {request.name!r}; only top takes it")
        self.name = request.name
        self._form = request.form
        self._kind = kind
        self._k = request.k
        size = np.dtype(dtype).itemsize
        if request.form is not Form.RAW and kind is not OutputKind.VALUES:
            size = 4
        if request.form is Form.TOP:
            self.element_nbytes = prod(shape[:-1]) * request.k * (size + 4)
        else:
            self.element_nbytes = prod(shape) * size

    def encode(self, array: NDArray[Any]) -> EncodedValues:
        if self._form is Form.RAW:
            return EncodedValues(values=_bytes(array))
        if self._kind is not OutputKind.VALUES:
            array = array.astype(np.float32, copy=False)
        if self._form is Form.PROBABILITIES:
            if self._kind is OutputKind.LOGITS:
                array = softmax(array)
            return EncodedValues(values=_bytes(array))
        indices = top(array, self._k)
        if self._kind is OutputKind.LOGITS:
            array = softmax(array)
        return EncodedValues(
            values=_bytes(np.take_along_axis(array, indices, axis=-1)),
            indices=_bytes(indices.astype("<u4")),
        )


def _named(name: str, specs: Mapping[str, OutputSpec]) -> OutputSpec:
    if name not in specs:
        raise InvalidRequest(f"output {name!r} is unknown; the model has {', '.join(specs)}")
    return specs[name]


def _column(request: OutputRequest, spec: OutputSpec) -> _Column:
    # Cache by the relevant fields only: a spec may hold many labels.
    return _shared_column(request, kind=spec.kind, dtype=spec.dtype, shape=spec.shape)


@lru_cache(maxsize=4096)
def _shared_column(
    request: OutputRequest, *, kind: OutputKind, dtype: DType, shape: tuple[int, ...]
) -> _Column:
    """Returns a column shared by all selections.

    A call may open thousands of sessions with 64 outputs each. The garbage collector pauses the
    server while visiting every object, so fewer objects mean shorter pauses.
    """
    return _Column(request, kind=kind, dtype=dtype, shape=shape)


def _bytes(array: NDArray[Any]) -> Buffer:
    """Returns an array's bytes in C order."""
    if array.nbytes < _SMALL_NBYTES or not array.flags.c_contiguous:
        return array.tobytes()
    return array.reshape(-1).view(np.uint8).data


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns probabilities over the last axis; NaN where the largest logit is infinite.

    Bit for bit, a row's result does not depend on other rows.
    """
    with np.errstate(invalid="ignore"):
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: NDArray[np.float32] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def top(array: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Returns the indices of the k largest entries of the last axis, largest first. Among equal
    entries the lower index comes first."""
    # argsort is ascending and stable, so the array is reversed before and after.
    length = array.shape[-1]
    ascending = np.argsort(array[..., ::-1], axis=-1, kind="stable")[..., ::-1][..., :k]
    indices: NDArray[np.int64] = length - 1 - ascending
    return indices
