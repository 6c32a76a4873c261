"""Requested outputs: choice, form, and layout of the numbers on the wire."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

from elman._wire.model import Model, Output, OutputKind
from elman.errors import InvalidRequest, ServerError
from elman.v1 import inference_pb2 as pb

FLOAT32 = np.dtype("<f4")
UINT32 = np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class Raw:
    """Requests an output in the model's own form. A bare name means the same."""

    name: str


@dataclass(frozen=True, slots=True)
class Probabilities:
    """Requests probabilities, float32. For logits: the softmax over the last axis."""

    name: str


@dataclass(frozen=True, slots=True)
class Top:
    """Requests the `k` largest entries of the last axis, largest first, with their indices.

    The values are probabilities for outputs of logits or probabilities, and the output's own
    numbers otherwise.
    """

    name: str
    k: int


OutputChoice: TypeAlias = str | Raw | Probabilities | Top


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A requested output. `shape` and `dtype` describe the values of a single prediction."""

    output: Output
    form: "pb.Form.ValueType"
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def is_top(self) -> bool:
        return self.form == pb.FORM_TOP

    @property
    def row_bytes(self) -> int:
        """Bytes on the wire per prediction."""
        width = self.dtype.itemsize + (UINT32.itemsize if self.is_top else 0)
        return prod(self.shape) * width

    def request(self) -> pb.OutputRequest:
        k = self.shape[-1] if self.is_top else 0
        return pb.OutputRequest(name=self.output.name, form=self.form, k=k)


class Layout:
    """Columns of a list of requested outputs, in order.

    Two layouts of a model are equal if the values of `key` are equal.
    """

    __slots__ = ("columns", "index", "key", "requests", "row_bytes")

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)
        self.index = {column.output.name: i for i, column in enumerate(columns)}
        self.requests = tuple(column.request() for column in columns)
        self.key = tuple((request.name, request.form, request.k) for request in self.requests)
        self.row_bytes = sum(column.row_bytes for column in columns)

    def decode(self, outputs: Sequence[pb.Values], count: int) -> "Frame":
        """Reads `count` predictions from a message. Raises `ServerError` if the size is wrong."""
        if len(outputs) != len(self.columns):
            raise ServerError(
                f"the server sent {len(outputs)} outputs; {len(self.columns)} were requested"
            )
        values = []
        indices = []
        for column, message in zip(self.columns, outputs, strict=True):
            values.append(_array(message.values, column.dtype, column, count))
            indices.append(
                _array(message.indices, UINT32, column, count) if column.is_top else None
            )
        return Frame(self, count, values, indices)


class Frame:
    """`count` predictions from a message: arrays `[count, *shape]`, read-only."""

    __slots__ = ("count", "indices", "layout", "values")

    def __init__(
        self,
        layout: Layout,
        count: int,
        values: Sequence[np.ndarray],
        indices: Sequence[np.ndarray | None],
    ) -> None:
        self.layout = layout
        self.count = count
        self.values = values
        self.indices = indices


def resolve(model: Model, outputs: OutputChoice | Sequence[OutputChoice] | None) -> Layout:
    """Returns the layout of the requested outputs; `None` requests every output, raw.

    Raises `InvalidRequest` for an unknown output, for an output requested twice, and for a form not
    allowed for the output.
    """
    if outputs is None:
        outputs = [output.name for output in model.outputs]
    elif isinstance(outputs, str | Raw | Probabilities | Top):
        outputs = [outputs]
    if not outputs:
        raise InvalidRequest(f"outputs is empty; allowed are {_names(model)}, or None for all")
    layout = Layout([_column(model, choice) for choice in outputs])
    if len(layout.index) != len(layout.columns):
        names = ", ".join(repr(column.output.name) for column in layout.columns)
        raise InvalidRequest(f"outputs names one twice: {names}; each is allowed once")
    return layout


def _column(model: Model, choice: OutputChoice) -> Column:
    if isinstance(choice, str):
        choice = Raw(choice)
    if not isinstance(choice, Raw | Probabilities | Top):
        raise InvalidRequest(
            f"outputs holds {choice!r}; allowed are names, Raw, Probabilities and Top"
        )
    output = next((output for output in model.outputs if output.name == choice.name), None)
    if output is None:
        raise InvalidRequest(
            f"outputs names {choice.name!r}; model {model.name!r} has {_names(model)}"
        )
    form: pb.Form.ValueType = pb.FORM_RAW
    dtype, shape = output.dtype, output.shape
    match choice:
        case Probabilities(name):
            if output.kind is OutputKind.VALUES:
                raise InvalidRequest(f"Probabilities({name!r}): the output is values; use Raw")
            form, dtype = pb.FORM_PROBABILITIES, FLOAT32
        case Top(name, k):
            if not output.shape:
                raise InvalidRequest(f"Top({name!r}, {k}): the output is a scalar; use Raw")
            if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= output.shape[-1]:
                raise InvalidRequest(
                    f"Top({name!r}, {k!r}): k is allowed from 1 to {output.shape[-1]}"
                )
            form, shape = pb.FORM_TOP, (*output.shape[:-1], k)
            if output.kind is not OutputKind.VALUES:
                dtype = FLOAT32
    return Column(output=output, form=form, dtype=dtype, shape=shape)


def _names(model: Model) -> str:
    return ", ".join(repr(output.name) for output in model.outputs)


def _array(data: bytes, dtype: np.dtype, column: Column, count: int) -> np.ndarray:
    size = count * prod(column.shape)
    if len(data) != size * dtype.itemsize:
        raise ServerError(
            f"the server sent {len(data)} bytes of {column.output.name!r} for {count} predictions "
            f"of {dtype}{list(column.shape)}"
        )
    return np.frombuffer(data, dtype).reshape(count, *column.shape)
