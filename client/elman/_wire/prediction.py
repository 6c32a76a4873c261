"""Predictions for an element and for a whole sequence.

A prediction is a view of a message: making a prediction copies no data, and keeping a prediction
keeps the message in memory. Arrays returned to the caller are copies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np

from elman._wire.model import OutputKind
from elman._wire.outputs import Column, Frame
from elman.errors import InvalidRequest, ServerError
from elman.v1 import inference_pb2 as pb


class Alternative(NamedTuple):
    """An entry on an output's last axis."""

    label: str | int
    """Label of the entry, or the index if the output has no labels."""
    probability: float
    """Probability of the entry; for an output of values, the output's number."""


@dataclass(frozen=True, slots=True, eq=False)
class TopValues:
    """Largest entries of an output requested as `Top`, largest first."""

    values: np.ndarray
    """Shape [*output.shape[:-1], k]: probabilities, or the output's own numbers for an output of
    values."""
    indices: np.ndarray
    """Indices of the entries on the last axis: uint32, shaped like `values`."""


class Prediction:
    """Outputs for an element, by name."""

    __slots__ = ("_frame", "_row", "position")

    position: int
    """0-based index of the element in the session."""

    def __init__(self, frame: Frame, row: int, position: int) -> None:
        self._frame = frame
        self._row = row
        self.position = position

    def __getitem__(self, name: str) -> Any:
        """Returns an array of the output's shape, or a Python number for a scalar output.

        For an output requested as `Top`, returns a `TopValues`. Raises `KeyError` for an output not
        requested.
        """
        i = _index(self._frame, name)
        values = self._frame.values[i][self._row]
        indices = self._frame.indices[i]
        if indices is not None:
            return TopValues(values.copy(), indices[self._row].copy())
        return values.copy() if values.ndim else values.item()

    def keys(self) -> list[str]:
        """Names of the requested outputs, in order."""
        return list(self._frame.layout.index)

    def __iter__(self) -> Iterator[str]:
        return iter(self._frame.layout.index)

    def __len__(self) -> int:
        return len(self._frame.layout.index)

    def __contains__(self, name: object) -> bool:
        return name in self._frame.layout.index

    def top(self, k: int = 1, output: str | None = None) -> list[Alternative]:
        """Returns the `k` most probable entries of an output with one axis, most probable first.

        `output` may be omitted if only one requested output has one axis. Raises `InvalidRequest`
        for an output with more or fewer axes, and for a `k` above the number of entries received.
        Raises `ServerError` if an entry is NaN, since NaN has no order.
        """
        column, values, indices = self.entries(output)
        if np.isnan(values).any():
            raise ServerError(
                f"output {column.output.name!r} is NaN at position {self.position}; its entries "
                "have no order"
            )
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(values):
            raise InvalidRequest(f"k is {k!r}; allowed are 1 to {len(values)}")
        if indices is None:
            indices = np.argsort(-values, kind="stable")[:k]
            values = values[indices]
        labels = column.output.labels
        return [
            Alternative(labels[index] if labels else index, value)
            for index, value in zip(indices[:k].tolist(), values[:k].tolist(), strict=True)
        ]

    def entries(self, output: str | None) -> tuple[Column, np.ndarray, np.ndarray | None]:
        """Column, values and indices of an output with one axis.

        Values of logits are returned as probabilities. Indices are None unless the output was
        requested as `Top`.
        """
        frame = self._frame
        if output is None:
            choices = [name for name, i in frame.layout.index.items() if _is_vector(frame, i)]
            if len(choices) != 1:
                raise InvalidRequest(
                    f"name the output: {len(choices)} of {', '.join(map(repr, self))} have one axis"
                )
            output = choices[0]
        i = _index(frame, output)
        column = frame.layout.columns[i]
        if not _is_vector(frame, i):
            raise InvalidRequest(
                f"output {output!r} has shape {list(column.shape)}; "
                "alternatives are of outputs with one axis"
            )
        values = frame.values[i][self._row]
        if column.form == pb.FORM_RAW and column.output.kind is OutputKind.LOGITS:
            values = softmax(values)
        indices = frame.indices[i]
        return column, values, None if indices is None else indices[self._row]

    def __repr__(self) -> str:
        outputs = [f"{name}={self._summary(i)}" for i, name in enumerate(self)]
        return f"Prediction(position={self.position}, {', '.join(outputs)})"

    def _summary(self, i: int) -> str:
        column = self._frame.layout.columns[i]
        if not column.shape:
            return f"{self._frame.values[i][self._row].item():.6g}"
        if _is_vector(self._frame, i) and (column.output.labels or column.is_top):
            if np.isnan(self.entries(column.output.name)[1]).any():
                return "[NaN]"
            best = self.top(min(3, column.shape[-1]), column.output.name)
            entries = [f"{entry.label!r} {entry.probability:.3g}" for entry in best]
            more = ", ..." if column.output.shape[-1] > len(best) else ""
            return f"[{', '.join(entries)}{more}]"
        return f"{column.dtype}{list(column.shape)}"


class Predictions(Sequence[Prediction]):
    """Predictions for a whole sequence, in order: a prediction per element."""

    __slots__ = ("_frame",)

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def __len__(self) -> int:
        return self._frame.count

    @overload
    def __getitem__(self, key: int) -> Prediction: ...
    @overload
    def __getitem__(self, key: slice) -> list[Prediction]: ...
    @overload
    def __getitem__(self, key: str) -> Any: ...
    def __getitem__(self, key: int | slice | str) -> Any:
        """Returns by position a prediction, by slice a list of predictions.

        By name, returns an output of all predictions stacked: an array [len(self), *shape], or a
        `TopValues` of such arrays.
        """
        if isinstance(key, str):
            i = _index(self._frame, key)
            indices = self._frame.indices[i]
            if indices is None:
                return self._frame.values[i].copy()
            return TopValues(self._frame.values[i].copy(), indices.copy())
        positions = range(len(self))[key]
        if isinstance(positions, int):
            return Prediction(self._frame, positions, positions)
        return [Prediction(self._frame, position, position) for position in positions]

    def __repr__(self) -> str:
        names = ", ".join(map(repr, self._frame.layout.index))
        return f"<Predictions of {len(self)} elements: {names}>"


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, float32 unless the logits are float64.

    Returns NaN where the largest logit is infinite.
    """
    logits = logits.astype(np.result_type(logits, np.float32))
    with np.errstate(invalid="ignore"):
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def _index(frame: Frame, name: str) -> int:
    try:
        return frame.layout.index[name]
    except KeyError:
        names = ", ".join(map(repr, frame.layout.index))
        raise KeyError(f"no output {name!r}; requested were {names}") from None


def _is_vector(frame: Frame, i: int) -> bool:
    return len(frame.layout.columns[i].shape) == 1
