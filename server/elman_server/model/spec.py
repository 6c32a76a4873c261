"""What a step model takes, gives and carries from step to step.

A `ModelSpec` stands as JSON in the `metadata_props` of the ONNX file that it describes, under
`SPEC_KEY`. This module owns its form and its rules; it knows neither ONNX nor any runtime.

Tensors are laid out `[batch, time, *shape]` where the graph takes a time axis and `[batch, *shape]`
where it does not; states are laid out as their own `batch_axis` says.
"""

import json
from enum import StrEnum
from math import prod
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

SPEC_KEY = "elman.spec"
"""The key of the spec's JSON in `metadata_props`."""

FINGERPRINT_KEY = "elman.fingerprint"
"""The key of the fingerprint (see `elman_server.model.modelfile`) in `metadata_props`."""

INITIAL_KEY = "elman.initial"
"""The key of the initial-state network, an ONNX file of its own in base64, in `metadata_props`."""

Dimension = Annotated[int, Field(ge=1, lt=2**31)]
DType = Literal["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]

_STRICT = ConfigDict(extra="forbid", strict=True)


class SpecError(ValueError):
    """A spec that breaks its own rules; the message names the field, what came and what is
    allowed."""


class InputKind(StrEnum):
    TEXT = "text"
    TOKENS = "tokens"
    FEATURES = "features"


class OutputKind(StrEnum):
    VALUES = "values"
    LOGITS = "logits"
    PROBABILITIES = "probabilities"


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class InputSpec:
    """The tensor that takes the elements.

    TEXT: `dtype` is an integer type, `shape` is empty, and `vocabulary[i]` is the character of id
    `i`. TOKENS: the same with ids pushed as numbers; `vocabulary` is empty or names each id.
    FEATURES: `dtype` is a floating type and `shape` is that of one element (empty for a scalar).
    """

    name: str
    kind: InputKind
    dtype: DType
    shape: tuple[Dimension, ...] = ()
    size: Annotated[int, Field(lt=2**31)] = 0
    """TEXT, TOKENS: how many ids there are."""
    vocabulary: tuple[str, ...] = ()
    unknown: int | None = None
    """TEXT: the id for characters outside the vocabulary, or None to refuse them."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind is InputKind.FEATURES:
            if not np.issubdtype(self.dtype, np.floating):
                raise ValueError(
                    f"input.dtype is {self.dtype}; a features input takes a float type"
                )
            if self.size or self.vocabulary or self.unknown is not None:
                raise ValueError("a features input has no size, vocabulary or unknown id")
            return self
        if self.dtype not in ("int32", "int64"):
            raise ValueError(f"input.dtype is {self.dtype}; ids are int32 or int64")
        if self.shape:
            raise ValueError(
                f"input.shape is {list(self.shape)}; an id is a scalar, so it is empty"
            )
        if self.size < 1:
            raise ValueError(f"input.size is {self.size}; there must be at least 1 id")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError("input.vocabulary holds an entry twice")
        if self.vocabulary and len(self.vocabulary) != self.size:
            raise ValueError(
                f"input.vocabulary has {len(self.vocabulary)} entries; input.size is {self.size}"
            )
        if self.kind is InputKind.TOKENS:
            if self.unknown is not None:
                raise ValueError("input.unknown is for text inputs only")
            return self
        if not self.vocabulary or any(len(symbol) != 1 for symbol in self.vocabulary):
            raise ValueError("input.vocabulary of a text input holds one character for each id")
        if self.unknown is not None and not 0 <= self.unknown < self.size:
            raise ValueError(f"input.unknown is {self.unknown}; ids are 0 to {self.size - 1}")
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of one element."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class OutputSpec:
    """A tensor that holds a part of each prediction."""

    name: str
    kind: OutputKind
    dtype: DType
    shape: tuple[Dimension, ...] = ()
    """For one element."""
    labels: tuple[str, ...] = ()
    """What the entries of the last axis stand for; empty, or as many as that axis is long."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.labels and (not self.shape or len(self.labels) != self.shape[-1]):
            raise ValueError(
                f"output {self.name!r} has {len(self.labels)} labels for shape {list(self.shape)}"
            )
        if self.kind is OutputKind.LOGITS and not self.shape:
            raise ValueError(
                f"output {self.name!r} is logits, so it needs an axis to normalise over"
            )
        if self.kind is not OutputKind.VALUES and not np.issubdtype(self.dtype, np.floating):
            raise ValueError(f"output {self.name!r} is {self.kind} of {self.dtype}, not of floats")
        return self


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class StateSpec:
    """A tensor that a step hands to the next: an output that is fed to an input.

    `shape` is that of one session, without the batch axis; `batch_axis` is where the batch goes
    in, so that an LSTM's `[layers, batch, hidden]` is `shape=(layers, hidden), batch_axis=1`.
    """

    name: str
    input: str
    output: str
    dtype: DType
    shape: tuple[Dimension, ...]
    batch_axis: Annotated[int, Field(ge=0)]
    initial: tuple[float, ...] | None = None
    """One session's initial values in C order, or None for zeros."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_axis > len(self.shape):
            raise ValueError(
                f"state {self.name!r} has batch_axis {self.batch_axis}; "
                f"allowed are 0 to {len(self.shape)}"
            )
        if self.initial is not None and len(self.initial) != prod(self.shape):
            raise ValueError(
                f"state {self.name!r} has {len(self.initial)} initial values for shape "
                f"{list(self.shape)}"
            )
        if self.initial is not None and not _fit(self.initial, self.dtype):
            raise ValueError(f"state {self.name!r} has an initial value that is no {self.dtype}")
        return self

    def initial_value(self) -> np.ndarray:
        """One session's initial value: an array of `shape` and `dtype`."""
        if self.initial is None:
            return np.zeros(self.shape, self.dtype)
        return np.array(self.initial).astype(self.dtype).reshape(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class ContextSpec:
    """A tensor that a session is given once, when it is opened: `[*shape]` for one session."""

    name: str
    dtype: DType
    shape: tuple[Dimension, ...] = ()
    input: str | None = None
    """The step graph's input, `[batch, *shape]`, that takes it at every step; None for a context
    that only the initial-state network takes."""

    @property
    def nbytes(self) -> int:
        """Bytes of one session's value."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


def _fit(values: tuple[float, ...], dtype: str) -> bool:
    """Whether a type holds numbers: finite ones, and exactly where it is no floating type."""
    numbers = np.array(values, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        cast = numbers.astype(dtype)
    fits = np.isfinite(cast) if np.issubdtype(dtype, np.floating) else cast == numbers
    return bool(np.isfinite(numbers).all() and fits.all())


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class ModelSpec:
    """Everything about a step model that its graph does not say."""

    format: Literal[1] = 1
    description: Annotated[str, Field(max_length=1000)] = ""
    """One line for people."""
    input: InputSpec
    outputs: Annotated[tuple[OutputSpec, ...], Field(min_length=1)]
    states: tuple[StateSpec, ...]
    time_axis: bool
    """Whether the graph takes several elements of each row at once."""
    lengths: str | None = None
    """The int32 `[batch]` input that says how many elements each row has, or None."""
    batched: bool = True
    """Whether the graph takes more than one row; if not, its batch axes have length 1."""
    contexts: tuple[ContextSpec, ...] = ()
    initialized: tuple[str, ...] = ()
    """The states that the initial-state network computes from the contexts; none if there is no
    such network. It takes contexts as `[batch, *shape]` under their names, all of those that have
    no `input` among them, and gives each of these states as `[batch, *shape]` under its name."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lengths is not None and not self.time_axis:
            raise ValueError("lengths are given, but the graph takes no time axis")
        inputs = [self.input.name, *(state.input for state in self.states)]
        inputs += [context.input for context in self.contexts if context.input is not None]
        if self.lengths is not None:
            inputs.append(self.lengths)
        outputs = [*(out.name for out in self.outputs), *(state.output for state in self.states)]
        for field, names in (("input", inputs), ("output", outputs)):
            if len(set(names)) != len(names):
                raise ValueError(f"{field} names are not unique: {', '.join(sorted(names))}")
        if len({state.name for state in self.states}) != len(self.states):
            raise ValueError("state names are not unique")
        if len({context.name for context in self.contexts}) != len(self.contexts):
            raise ValueError("context names are not unique")
        self._check_initialized()
        return self

    def _check_initialized(self) -> None:
        names = {state.name for state in self.states}
        for name in self.initialized:
            if name not in names:
                raise ValueError(f"initialized names {name!r}, which is no state")
        if len(set(self.initialized)) != len(self.initialized):
            raise ValueError("initialized names a state twice")
        if self.initialized and not self.contexts:
            raise ValueError("initialized states are computed from contexts; there are none")
        for context in self.contexts:
            if context.input is None and not self.initialized:
                raise ValueError(
                    f"context {context.name!r} goes nowhere: it has no input, and there is no "
                    "initial-state network"
                )

    @property
    def step_contexts(self) -> tuple[ContextSpec, ...]:
        """Those that the step graph takes."""
        return tuple(context for context in self.contexts if context.input is not None)

    @property
    def carried_nbytes(self) -> int:
        """Bytes of one session's states."""
        return sum(prod(s.shape) * np.dtype(s.dtype).itemsize for s in self.states)

    @property
    def state_bytes(self) -> int:
        """Bytes that a server keeps for one session: its state, and what it is to be given at every
        step."""
        return self.carried_nbytes + sum(context.nbytes for context in self.step_contexts)

    @property
    def context_nbytes(self) -> int:
        """Bytes of all contexts of one session."""
        return sum(context.nbytes for context in self.contexts)

    @property
    def output_nbytes(self) -> int:
        """Bytes of all outputs of one element."""
        return sum(prod(out.shape) * np.dtype(out.dtype).itemsize for out in self.outputs)

    def to_json(self) -> str:
        """The spec as compact JSON with sorted keys: equal specs give equal text."""
        return json.dumps(_ADAPTER.dump_python(self, mode="json"), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "ModelSpec":
        """Reads what `to_json` wrote.

        Raises `SpecError` naming each field that is missing, unknown or wrong.
        """
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            lines = (
                f"{'.'.join(map(str, e['loc'])) or 'spec'}: {e['msg']}" for e in error.errors()
            )
            raise SpecError("; ".join(lines)) from None


_ADAPTER = TypeAdapter(ModelSpec)
