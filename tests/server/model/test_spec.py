"""A spec says the same when it is read as when it was written, and is refused for what is wrong."""

import json
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from elman_server.model.spec import (
    ContextSpec,
    DType,
    InputKind,
    InputSpec,
    ModelSpec,
    OutputKind,
    OutputSpec,
    SpecError,
    StateSpec,
)

TEXT = InputSpec(name="ids", kind=InputKind.TEXT, dtype="int64", size=2, vocabulary=("a", "b"))
TOKENS = InputSpec(name="ids", kind=InputKind.TOKENS, dtype="int32", size=3)
FEATURES = InputSpec(name="x", kind=InputKind.FEATURES, dtype="float32", shape=(2, 3))
OUTPUT = OutputSpec(
    name="next", kind=OutputKind.LOGITS, dtype="float32", shape=(2,), labels=("a", "b")
)
STATE = StateSpec(name="h", input="h", output="h_next", dtype="float32", shape=(1, 4), batch_axis=1)
CONTEXT = ContextSpec(name="who", dtype="float32", shape=(3,), input="who")
SPEC = ModelSpec(input=TEXT, outputs=(OUTPUT,), states=(STATE,), time_axis=True, lengths="lengths")

shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)
names = st.text(min_size=1, max_size=8)
floats = ("float16", "float32", "float64")


@st.composite
def inputs(draw: st.DrawFn) -> InputSpec:
    kind = draw(st.sampled_from(InputKind))
    name = draw(names)
    if kind is InputKind.FEATURES:
        return InputSpec(
            name=name, kind=kind, dtype=draw(st.sampled_from(floats)), shape=draw(shapes)
        )
    symbol = st.text(min_size=1, max_size=1 if kind is InputKind.TEXT else 5)
    vocabulary = tuple(draw(st.lists(symbol, min_size=1, max_size=9, unique=True)))
    size = len(vocabulary)
    return InputSpec(
        name=name,
        kind=kind,
        dtype=draw(st.sampled_from(["int32", "int64"])),
        size=size,
        vocabulary=vocabulary if kind is InputKind.TEXT or draw(st.booleans()) else (),
        unknown=draw(st.none() | st.integers(0, size - 1)) if kind is InputKind.TEXT else None,
    )


@st.composite
def outputs(draw: st.DrawFn, name: str) -> OutputSpec:
    kind = draw(st.sampled_from(OutputKind))
    shape = draw(st.builds(lambda rest, last: (*rest, last), shapes, st.integers(1, 4)))
    labels = st.lists(st.text(max_size=3), min_size=shape[-1], max_size=shape[-1]).map(tuple)
    if kind is not OutputKind.LOGITS and draw(st.booleans()):
        shape, labels = (), st.just(())
    return OutputSpec(
        name=name,
        kind=kind,
        dtype=draw(st.sampled_from(get_args(DType) if kind is OutputKind.VALUES else floats)),
        shape=shape,
        labels=draw(st.just(()) | labels),
    )


def numbers_of(dtype: str) -> st.SearchStrategy[float]:
    if np.issubdtype(dtype, np.floating):
        width = np.dtype(dtype).itemsize * 8
        return st.floats(allow_nan=False, allow_infinity=False, width=width)  # type: ignore[arg-type]
    if dtype == "bool":
        return st.sampled_from([0.0, 1.0])
    bounds = np.iinfo(dtype)
    return st.integers(max(bounds.min, -(2**53)), min(bounds.max, 2**53)).map(float)


@st.composite
def states(draw: st.DrawFn, name: str) -> StateSpec:
    shape = draw(shapes)
    dtype = draw(st.sampled_from(get_args(DType)))
    values = st.lists(numbers_of(dtype), min_size=prod(shape), max_size=prod(shape))
    return StateSpec(
        name=name,
        input=f"{name} in",
        output=f"{name} out",
        dtype=dtype,
        shape=shape,
        batch_axis=draw(st.integers(0, len(shape))),
        initial=draw(st.none() | values.map(tuple)),
    )


@st.composite
def contexts(draw: st.DrawFn, name: str, *, goes_elsewhere: bool) -> ContextSpec:
    return ContextSpec(
        name=name,
        dtype=draw(st.sampled_from(get_args(DType))),
        shape=draw(shapes),
        input=None if goes_elsewhere and draw(st.booleans()) else f"{name} in",
    )


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    time_axis = draw(st.booleans())
    made = [draw(states(f"{i} of states")) for i in range(draw(st.integers(0, 3)))]
    count = draw(st.integers(0, 3))
    some = st.lists(st.sampled_from(made), unique_by=id) if made and count else st.just([])
    initialized = tuple(state.name for state in draw(some))
    return ModelSpec(
        description=draw(st.text()),
        input=draw(inputs()),
        outputs=tuple(draw(outputs(f"y{i}")) for i in range(draw(st.integers(1, 3)))),
        states=tuple(made),
        time_axis=time_axis,
        lengths=draw(st.none() | st.just("how long they are")) if time_axis else None,
        batched=draw(st.booleans()),
        contexts=tuple(
            draw(contexts(f"{i} of contexts", goes_elsewhere=bool(initialized)))
            for i in range(count)
        ),
        initialized=initialized,
    )


@given(specs())
def test_a_spec_comes_back_from_json_as_it_was(spec: ModelSpec) -> None:
    text = spec.to_json()
    assert ModelSpec.from_json(text) == spec
    assert ModelSpec.from_json(text).to_json() == text


@given(specs())
def test_state_bytes_are_those_of_its_initial_state_and_of_what_each_step_takes(
    spec: ModelSpec,
) -> None:
    small = [
        replace(state, initial=None if state.initial is None else (1.0,) * prod(state.shape))
        for state in spec.states
    ]
    kept = sum(np.zeros(each.shape, each.dtype).nbytes for each in spec.contexts if each.input)
    assert spec.state_bytes == kept + sum(state.initial_value().nbytes for state in small)


def test_an_initial_state_is_zeros_unless_it_is_given() -> None:
    assert STATE.initial_value().tolist() == [[0, 0, 0, 0]]
    given = replace(STATE, initial=(1, 2, 3, 4))
    assert given.initial_value().tolist() == [[1, 2, 3, 4]]
    assert given.initial_value().dtype == np.float32


REFUSED: list[tuple[Callable[[], object], str]] = [
    (
        lambda: replace(FEATURES, dtype="int32"),
        "input.dtype is int32; a features input takes a float type",
    ),
    (
        lambda: replace(FEATURES, size=2),
        "a features input has no size, vocabulary or unknown id",
    ),
    (
        lambda: replace(FEATURES, vocabulary=("a",)),
        "a features input has no size, vocabulary or unknown id",
    ),
    (
        lambda: replace(FEATURES, unknown=0),
        "a features input has no size, vocabulary or unknown id",
    ),
    (lambda: replace(TOKENS, dtype="float32"), "input.dtype is float32; ids are int32 or int64"),
    (
        lambda: replace(TOKENS, shape=(2,)),
        "input.shape is [2]; an id is a scalar, so it is empty",
    ),
    (lambda: replace(TOKENS, size=0), "input.size is 0; there must be at least 1 id"),
    (lambda: replace(TOKENS, unknown=0), "input.unknown is for text inputs only"),
    (lambda: replace(TEXT, vocabulary=("a", "a")), "input.vocabulary holds an entry twice"),
    (lambda: replace(TEXT, size=3), "input.vocabulary has 2 entries; input.size is 3"),
    (
        lambda: replace(TEXT, vocabulary=()),
        "input.vocabulary of a text input holds one character for each id",
    ),
    (
        lambda: replace(TEXT, vocabulary=("a", "bc")),
        "input.vocabulary of a text input holds one character for each id",
    ),
    (lambda: replace(TEXT, unknown=2), "input.unknown is 2; ids are 0 to 1"),
    (lambda: replace(TEXT, unknown=-1), "input.unknown is -1; ids are 0 to 1"),
    (lambda: replace(OUTPUT, labels=("a",)), "output 'next' has 1 labels for shape [2]"),
    (
        lambda: replace(OUTPUT, shape=(), labels=()),
        "output 'next' is logits, so it needs an axis to normalise over",
    ),
    (lambda: replace(OUTPUT, dtype="int32"), "output 'next' is logits of int32, not of floats"),
    (lambda: replace(OUTPUT, shape=(0,)), "greater than or equal to 1"),
    (lambda: replace(STATE, batch_axis=3), "state 'h' has batch_axis 3; allowed are 0 to 2"),
    (
        lambda: replace(STATE, initial=(1.0,)),
        "state 'h' has 1 initial values for shape [1, 4]",
    ),
    *(
        (
            lambda value=value: replace(STATE, initial=(0.0, 0.0, 0.0, value)),
            "state 'h' has an initial value that is no float32",
        )
        for value in (float("nan"), float("inf"), 1e39)
    ),
    (
        lambda: replace(STATE, dtype="int8", initial=(0.0, 0.0, 0.0, 128.0)),
        "state 'h' has an initial value that is no int8",
    ),
    (
        lambda: replace(SPEC, time_axis=False),
        "lengths are given, but the graph takes no time axis",
    ),
    (lambda: replace(SPEC, lengths="ids"), "input names are not unique: h, ids, ids"),
    (
        lambda: replace(SPEC, states=(STATE, STATE)),
        "input names are not unique: h, h, ids, lengths",
    ),
    (
        lambda: replace(SPEC, outputs=(OUTPUT, OUTPUT)),
        "output names are not unique: h_next, next, next",
    ),
    (
        lambda: replace(SPEC, states=(STATE, replace(STATE, input="i", output="o"))),
        "state names are not unique",
    ),
    (lambda: replace(SPEC, outputs=()), "at least 1 item"),
    (
        lambda: replace(SPEC, contexts=(CONTEXT, replace(CONTEXT, input="other"))),
        "context names are not unique",
    ),
    (
        lambda: replace(SPEC, contexts=(replace(CONTEXT, input="h"),)),
        "input names are not unique: h, h, ids, lengths",
    ),
    (
        lambda: replace(SPEC, contexts=(CONTEXT,), initialized=("c",)),
        "initialized names 'c', which is no state",
    ),
    (
        lambda: replace(SPEC, contexts=(CONTEXT,), initialized=("h", "h")),
        "initialized names a state twice",
    ),
    (
        lambda: replace(SPEC, initialized=("h",)),
        "initialized states are computed from contexts; there are none",
    ),
    (
        lambda: replace(SPEC, contexts=(replace(CONTEXT, input=None),)),
        "context 'who' goes nowhere: it has no input, and there is no initial-state network",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_spec_that_breaks_a_rule_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make()
    assert message in str(caught.value)


def altered(**fields: Any) -> str:
    return json.dumps({**json.loads(SPEC.to_json()), **fields})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["spec: Invalid JSON"]),
        ("{", ["spec: Invalid JSON"]),
        ("[]", ["spec: "]),
        ("{}", ["input: Field required", "outputs: ", "states: ", "time_axis: "]),
        (altered(format=2), ["format: Input should be 1"]),
        (altered(surplus=1), ["surplus: "]),
        (altered(time_axis="yes"), ["time_axis: "]),
        (altered(input={**json.loads(SPEC.to_json())["input"], "kind": "sound"}), ["input.kind: "]),
        (altered(outputs=[{"name": "y"}]), ["outputs.0.kind: ", "outputs.0.dtype: "]),
        (
            altered(states=[{**json.loads(SPEC.to_json())["states"][0], "batch_axis": -1}]),
            ["states.0.batch_axis: "],
        ),
    ],
)
def test_json_that_is_no_spec_is_refused_with_each_wrong_field(text: str, parts: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_json(text)
    assert [part for part in parts if part not in str(caught.value)] == []
    assert "\n" not in str(caught.value)
