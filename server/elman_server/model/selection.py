"""A selection: which outputs of each prediction a session wants, and in which form."""

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
"""An output may be asked for in several forms, but each costs time at every element."""


class Form(StrEnum):
    RAW = "raw"
    """The output as the model gives it."""
    PROBABILITIES = "probabilities"
    TOP = "top"
    """The k largest entries of the last axis, with their indices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRequest:
    name: str
    form: Form = Form.RAW
    k: int = 0
    """TOP only."""


_SMALL_NBYTES = 4096
"""Bytes from which on a copy costs more than what it takes to do without."""

Buffer = bytes | memoryview
"""Bytes, or those of an array without a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedValues:
    """Raw little-endian bytes of one column of `n` predictions."""

    values: Buffer
    indices: Buffer = b""
    """TOP only: uint32."""


class Selection:
    """Checked output requests of one model, in the order asked for."""

    def __init__(self, requests: Iterable[OutputRequest], outputs: Iterable[OutputSpec]) -> None:
        """Takes every output, raw, where nothing is requested. Raises `InvalidRequest`."""
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
        """Packs `n` predictions. `outputs` by name: `[n, *shape]`."""
        return [column.encode(outputs[column.name]) for column in self._columns]

    def join(self, parts: Sequence[Sequence[EncodedValues]]) -> list[EncodedValues]:
        """What `encode` made of consecutive predictions, as if they had been encoded at once."""
        return [
            EncodedValues(
                values=b"".join(part[column].values for part in parts),
                indices=b"".join(part[column].indices for part in parts),
            )
            for column in range(len(self._columns))
        ]


class _Column:
    """One output in one form. Immutable."""

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
    # By what matters of the spec, which may hold many labels.
    return _shared_column(request, kind=spec.kind, dtype=spec.dtype, shape=spec.shape)


@lru_cache(maxsize=4096)
def _shared_column(
    request: OutputRequest, *, kind: OutputKind, dtype: DType, shape: tuple[int, ...]
) -> _Column:
    """A call may open thousands of sessions with 64 outputs each, and the garbage collector stops
    the server for as long as it takes to look at every object: so selections share columns."""
    return _Column(request, kind=kind, dtype=dtype, shape=shape)


def _bytes(array: NDArray[Any]) -> Buffer:
    """In C order."""
    if array.nbytes < _SMALL_NBYTES or not array.flags.c_contiguous:
        return array.tobytes()
    return array.reshape(-1).view(np.uint8).data


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities over the last axis. Each row depends on itself alone, to the bit. NaN where
    the largest logit is infinite."""
    with np.errstate(invalid="ignore"):
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: NDArray[np.float32] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def top(array: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Indices of the k largest entries of the last axis, largest first, the lower index first
    among equals."""
    # argsort is ascending and stable, so the array is turned around before and after.
    length = array.shape[-1]
    ascending = np.argsort(array[..., ::-1], axis=-1, kind="stable")[..., ::-1][..., :k]
    indices: NDArray[np.int64] = length - 1 - ascending
    return indices
