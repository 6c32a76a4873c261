"""A served model, as described by the server: inputs, outputs and contexts. Independent of
sessions."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from elman.v1 import inference_pb2 as pb

_DTYPES: dict[int, str] = {
    pb.DATA_TYPE_FLOAT16: "<f2",
    pb.DATA_TYPE_FLOAT32: "<f4",
    pb.DATA_TYPE_FLOAT64: "<f8",
    pb.DATA_TYPE_INT8: "<i1",
    pb.DATA_TYPE_INT16: "<i2",
    pb.DATA_TYPE_INT32: "<i4",
    pb.DATA_TYPE_INT64: "<i8",
    pb.DATA_TYPE_UINT8: "<u1",
    pb.DATA_TYPE_BOOL: "?",
}


class InputKind(StrEnum):
    """Kind of a model's elements."""

    TEXT = "text"
    """One character."""
    TOKENS = "tokens"
    """An id."""
    FEATURES = "features"
    """An array of numbers."""


class OutputKind(StrEnum):
    """Meaning of an output's numbers."""

    VALUES = "values"
    """Numbers with a meaning of the model's own, such as a forecast."""
    LOGITS = "logits"
    """Unnormalised log-probabilities over the last axis."""
    PROBABILITIES = "probabilities"
    """Probabilities in [0, 1]."""


_INPUT_KINDS = {
    pb.INPUT_KIND_TEXT: InputKind.TEXT,
    pb.INPUT_KIND_TOKENS: InputKind.TOKENS,
    pb.INPUT_KIND_FEATURES: InputKind.FEATURES,
}
_OUTPUT_KINDS = {
    pb.OUTPUT_KIND_VALUES: OutputKind.VALUES,
    pb.OUTPUT_KIND_LOGITS: OutputKind.LOGITS,
    pb.OUTPUT_KIND_PROBABILITIES: OutputKind.PROBABILITIES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A model's input: kind, type and shape of the elements."""

    kind: InputKind
    dtype: np.dtype | None
    """TOKENS, FEATURES: the type of the numbers, little-endian. TEXT: None."""
    shape: tuple[int, ...]
    """FEATURES: shape of an element; empty for a scalar. Otherwise empty."""
    size: int
    """TEXT, TOKENS: number of ids. FEATURES: 0."""
    vocabulary: tuple[str, ...]
    """TEXT: the character of each id. TOKENS: the name of each id, or empty. FEATURES: empty."""
    accepts_unknown: bool
    """TEXT: whether the model accepts characters outside the vocabulary."""

    def __str__(self) -> str:
        if self.kind is InputKind.FEATURES:
            return f"features {_array(self.dtype, self.shape)}"
        noun = "characters" if self.kind is InputKind.TEXT else "ids"
        return f"{self.kind} of {self.size} {noun}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A part of each prediction."""

    name: str
    kind: OutputKind
    dtype: np.dtype
    """Type of the numbers, little-endian."""
    shape: tuple[int, ...]
    """Shape for an element; empty for a scalar."""
    labels: tuple[str, ...]
    """Names of the entries on the last axis; empty, or as many as the axis is long."""

    def __str__(self) -> str:
        return f"{self.name}: {self.kind} {_array(self.dtype, self.shape)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """An array given to a session at the opening."""

    name: str
    dtype: np.dtype
    """Type of the numbers, little-endian."""
    shape: tuple[int, ...]
    """Shape for a session; empty for a scalar."""

    def __str__(self) -> str:
        return f"{self.name} {_array(self.dtype, self.shape)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model ready on the server."""

    name: str
    version: str
    fingerprint: str
    """Hex SHA-256 over graph, weights and spec."""
    description: str
    """One line for people. May be empty."""
    input: Input
    outputs: tuple[Output, ...]
    state_bytes: int
    """Size of a session's state on the server, in bytes."""
    contexts: tuple[Context, ...] = ()
    """Arrays required at the opening of each session."""

    def __str__(self) -> str:
        outputs = ", ".join(map(str, self.outputs))
        return f"{self.name} (version {self.version}): {self.takes} -> {outputs}"

    @property
    def takes(self) -> str:
        """Text for people: the model's elements and contexts."""
        once = ", ".join(map(str, self.contexts))
        return f"{self.input}, once {once}" if once else str(self.input)


def model_from_proto(message: pb.Model) -> Model:
    """Reads a server's description of a model.

    Raises `ValueError` for a kind or a data type unknown to this SDK.
    """
    model_input = message.input
    if model_input.kind not in _INPUT_KINDS:
        raise ValueError(f"model {message.name!r} has an input of unknown kind {model_input.kind}")
    kind = _INPUT_KINDS[model_input.kind]
    return Model(
        name=message.name,
        version=message.version,
        fingerprint=message.fingerprint,
        description=message.description,
        input=Input(
            kind=kind,
            dtype=None if kind is InputKind.TEXT else _dtype(model_input.data_type, message.name),
            shape=tuple(model_input.shape),
            size=model_input.size,
            vocabulary=tuple(model_input.vocabulary),
            accepts_unknown=model_input.accepts_unknown,
        ),
        outputs=tuple(_output(output, message.name) for output in message.outputs),
        state_bytes=message.state_bytes,
        contexts=tuple(
            Context(
                name=context.name,
                dtype=_dtype(context.data_type, message.name),
                shape=tuple(context.shape),
            )
            for context in message.contexts
        ),
    )


def _output(message: pb.Output, model: str) -> Output:
    if message.kind not in _OUTPUT_KINDS:
        raise ValueError(
            f"output {message.name!r} of model {model!r} is of unknown kind {message.kind}"
        )
    return Output(
        name=message.name,
        kind=_OUTPUT_KINDS[message.kind],
        dtype=_dtype(message.data_type, model),
        shape=tuple(message.shape),
        labels=tuple(message.labels),
    )


def _dtype(data_type: int, model: str) -> np.dtype:
    code = _DTYPES.get(data_type)
    if code is None:
        raise ValueError(f"model {model!r} has numbers of unknown data type {data_type}")
    return np.dtype(code)


def _array(dtype: np.dtype | None, shape: tuple[int, ...]) -> str:
    return f"{dtype}{list(shape)}" if shape else str(dtype)
