"""Short functions to describe a module's tensors.

`text`, `tokens` and `features` describe the input. `values`, `logits` and `probabilities` describe
an output; shape and type are found by running the module. `state` describes a state that the module
takes and returns. This module depends on neither torch nor ONNX.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from pydantic import ValidationError

from elman_export.errors import misfit
from elman_server.model.spec import ContextSpec, DType, InputKind, InputSpec, OutputKind, StateSpec

_Spec = TypeVar("_Spec", InputSpec, ContextSpec, StateSpec)

States: TypeAlias = "StateSpec | Sequence[States]"
"""States, nested as in the module's arguments and return value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Name and meaning of a tensor returned by the module."""

    name: str
    kind: OutputKind
    labels: tuple[str, ...] = ()


def text(
    vocabulary: Sequence[str], *, unknown: str | None = None, name: str = "input"
) -> InputSpec:
    """An input of characters: the module takes int64 ids `[batch, time]`, indices into
    `vocabulary`.

    `vocabulary` holds one character for each id. `unknown` is the character of the vocabulary that
    replaces every character outside the vocabulary. Without `unknown`, such characters are
    rejected. Raises `ValueError` for a duplicate entry, for an entry that is not a single
    character, and for an `unknown` outside the vocabulary.
    """
    if unknown is not None and unknown not in vocabulary:
        raise ValueError(f"unknown is {unknown!r}, which the vocabulary does not hold")
    return _made(
        InputSpec,
        name=name,
        kind=InputKind.TEXT,
        dtype="int64",
        size=len(vocabulary),
        vocabulary=tuple(vocabulary),
        unknown=None if unknown is None else list(vocabulary).index(unknown),
    )


def tokens(size: int, *, names: Sequence[str] = (), name: str = "input") -> InputSpec:
    """An input of ids 0 to `size - 1`: the module takes int64 `[batch, time]`.

    `names` gives the meaning of the ids: empty, or a name for each id. Raises `ValueError` for a
    size under 1 or a wrong number of names.
    """
    return _made(
        InputSpec,
        name=name,
        kind=InputKind.TOKENS,
        dtype="int64",
        size=size,
        vocabulary=tuple(names),
    )


def features(*shape: int, name: str = "input") -> InputSpec:
    """An input of numbers: the module takes float32 `[batch, time, *shape]`."""
    return _made(InputSpec, name=name, kind=InputKind.FEATURES, dtype="float32", shape=shape)


def context(name: str, *shape: int, dtype: str = "float32") -> ContextSpec:
    """An input given once per session: the module takes `[batch, *shape]` behind `x`."""
    return _made(ContextSpec, name=name, dtype=cast(DType, dtype), shape=shape)


def state(
    name: str, *shape: int, initial: Any = None, dtype: str = "float32", batch_axis: int = 0
) -> StateSpec:
    """A state that a module takes beside an element and returns updated: `[batch, *shape]`, or with
    the batch at another axis.

    `initial` holds a session's first values, an array or tensor of `shape`; zeros by default.
    Raises `ValueError` for an initial value of another shape or type.
    """
    first = None
    if initial is not None:
        value = np.array(initial.tolist() if hasattr(initial, "tolist") else initial)
        if value.shape != shape:
            raise ValueError(
                f"state {name!r} has shape {list(shape)}, and its initial value {list(value.shape)}"
            )
        first = tuple(float(each) for each in value.ravel())
    return _made(
        StateSpec,
        name=name,
        input=name,
        output=f"{name}.next",
        dtype=cast(DType, dtype),
        shape=shape,
        batch_axis=batch_axis,
        initial=first,
    )


def values(name: str, *, labels: Sequence[str] = ()) -> Output:
    """An output of plain numbers; `labels` name the entries of its last axis."""
    return Output(name=name, kind=OutputKind.VALUES, labels=tuple(labels))


def logits(name: str, *, labels: Sequence[str] = ()) -> Output:
    """An output for a softmax over the last axis; `labels` name the entries of this axis."""
    return Output(name=name, kind=OutputKind.LOGITS, labels=tuple(labels))


def probabilities(name: str, *, labels: Sequence[str] = ()) -> Output:
    """An output of probabilities; `labels` name the entries of its last axis."""
    return Output(name=name, kind=OutputKind.PROBABILITIES, labels=tuple(labels))


def _made(part: type[_Spec], /, **fields: Any) -> _Spec:
    """Creates a part of a spec. Raises `ValueError` with the messages of the spec's own rules."""
    try:
        return part(**fields)
    except ValidationError as error:
        raise ValueError(misfit(error)) from None
