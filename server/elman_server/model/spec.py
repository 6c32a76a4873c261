"""Spec of a step model: inputs, outputs, and states carried from step to step.

A `ModelSpec` is stored as JSON in the `metadata_props` of the model's ONNX file, under `SPEC_KEY`.
This module defines the format and the rules of specs, and depends neither on ONNX nor on a runtime.

Tensors have the layout `[batch, time, *shape]` if the graph has a time axis, and `[batch, *shape]`
otherwise. A state's layout follows its own `batch_axis`.
"""

import json
from enum import StrEnum
from math import prod
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

SPEC_KEY = "elman.spec"
"""Key of the spec's JSON in `metadata_props`."""

FINGERPRINT_KEY = "elman.fingerprint"
"""Key of the fingerprint (see `elman_server.model.modelfile`) in `metadata_props`."""

INITIAL_KEY = "elman.initial"
"""Key of the initial-state network, a separate ONNX file in base64, in `metadata_props`."""

Dimension = Annotated[int, Field(ge=1, lt=2**31)]
DType = Literal["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]

_STRICT = ConfigDict(extra="forbid", strict=True)


class SpecError(ValueError):
    """Error for an invalid spec. The message names the field, its value and the allowed values."""


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
    """The input tensor for elements.

    TEXT: `dtype` is an integer type, `shape` is empty, and `vocabulary[i]` is the character of id
    `i`. TOKENS: `dtype` and `shape` are as for TEXT, but clients push ids as numbers; `vocabulary`
    is empty or names each id. FEATURES: `dtype` is a floating type and `shape` is the shape of an
    element (empty for a scalar).
    """

    name: str
    kind: InputKind
    dtype: DType
    shape: tuple[Dimension, ...] = ()
    size: Annotated[int, Field(lt=2**31)] = 0
    """TEXT, TOKENS: the number of ids."""
    vocabulary: tuple[str, ...] = ()
    unknown: int | None = None
    """TEXT: the id for characters outside the vocabulary, or None to reject such characters."""

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
        """Bytes of an element."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class OutputSpec:
    """An output tensor: a part of each prediction."""

    name: str
    kind: OutputKind
    dtype: DType
    shape: tuple[Dimension, ...] = ()
    """Shape of the output for a single element."""
    labels: tuple[str, ...] = ()
    """Names of the entries of the last axis: a name for each entry, or empty."""

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
    """A state tensor: an output of a step that is fed to an input of the next step.

    `shape` is the shape for a single session, without the batch axis. `batch_axis` is the index of
    the batch axis in the graph's tensor: an LSTM's `[layers, batch, hidden]` has
    `shape=(layers, hidden), batch_axis=1`.
    """

    name: str
    input: str
    output: str
    dtype: DType
    shape: tuple[Dimension, ...]
    batch_axis: Annotated[int, Field(ge=0)]
    initial: tuple[float, ...] | None = None
    """A session's initial values in C order, or None for zeros."""

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
        """Returns a session's initial value, an array of `shape` and `dtype`."""
        if self.initial is None:
            return np.zeros(self.shape, self.dtype)
        return np.array(self.initial).astype(self.dtype).reshape(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class ContextSpec:
    """A context tensor, given once when a session is opened: `[*shape]` for a single session."""

    name: str
    dtype: DType
    shape: tuple[Dimension, ...] = ()
    input: str | None = None
    """The step graph's input for the context, `[batch, *shape]`, fed at every step. None if only
    the initial-state network takes the context."""

    @property
    def nbytes(self) -> int:
        """Bytes of a session's value."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


def _fit(values: tuple[float, ...], dtype: str) -> bool:
    """Whether all values are finite in a dtype, and exact if the dtype is not a floating type."""
    numbers = np.array(values, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        cast = numbers.astype(dtype)
    fits = np.isfinite(cast) if np.issubdtype(dtype, np.floating) else cast == numbers
    return bool(np.isfinite(numbers).all() and fits.all())


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class ModelSpec:
    """All facts about a step model that are not in the graph."""

    format: Literal[1] = 1
    description: Annotated[str, Field(max_length=1000)] = ""
    """A single line for people."""
    input: InputSpec
    outputs: Annotated[tuple[OutputSpec, ...], Field(min_length=1)]
    states: tuple[StateSpec, ...]
    time_axis: bool
    """Whether the graph takes several elements of each row in a single step."""
    lengths: str | None = None
    """Name of the int32 `[batch]` input for the number of elements of each row, or None."""
    batched: bool = True
    """Whether the graph takes several rows. If False, all batch axes have length 1."""
    contexts: tuple[ContextSpec, ...] = ()
    initialized: tuple[str, ...] = ()
    """Names of the states that the initial-state network computes from the contexts; empty if the
    model has no initial-state network.

    The network's inputs are contexts, `[batch, *shape]`, by name; every context without an `input`
    is among the inputs. The network's outputs are the states, `[batch, *shape]`, by name."""

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
        """Contexts with an input in the step graph."""
        return tuple(context for context in self.contexts if context.input is not None)

    @property
    def carried_nbytes(self) -> int:
        """Bytes of a session's states."""
        return sum(prod(s.shape) * np.dtype(s.dtype).itemsize for s in self.states)

    @property
    def state_bytes(self) -> int:
        """Bytes that a server keeps for a session: states, and contexts fed at every step."""
        return self.carried_nbytes + sum(context.nbytes for context in self.step_contexts)

    @property
    def context_nbytes(self) -> int:
        """Bytes of all contexts of a session."""
        return sum(context.nbytes for context in self.contexts)

    @property
    def output_nbytes(self) -> int:
        """Bytes of all outputs of an element."""
        return sum(prod(out.shape) * np.dtype(out.dtype).itemsize for out in self.outputs)

    def to_json(self) -> str:
        """Returns the spec as compact JSON with sorted keys, so equal specs give equal text."""
        return json.dumps(_ADAPTER.dump_python(self, mode="json"), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "ModelSpec":
        """Parses the output of `to_json`.

        Raises `SpecError` with the name of each missing, unknown or invalid field.
        """
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            lines = (
                f"{'.'.join(map(str, e['loc'])) or 'spec'}: {e['msg']}" for e in error.errors()
            )
            raise SpecError("; ".join(lines)) from None


_ADAPTER = TypeAdapter(ModelSpec)
