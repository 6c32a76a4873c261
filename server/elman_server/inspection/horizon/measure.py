"""Runs a network twice, with an element and with a replacement, and compares the predictions.

Each row of the sample is run up to the element to replace. From there on, the network runs the row
unchanged and a copy with the replacement. Later elements of row and copy are equal. The module does
not depend on the runtime of the step model.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from elman_server.inspection.horizon.influence import HorizonError, Influence, Tally
from elman_server.inspection.horizon.sample import Sample
from elman_server.model.spec import ModelSpec

Array = NDArray[Any]

_STEP_NBYTES = 32 * 1024 * 1024
"""Most bytes for the outputs of a step."""


class Network(Protocol):
    """A loaded step model; see `elman_server.runner.model.StepModel`."""

    spec: ModelSpec

    def step(
        self,
        elements: Array,
        lengths: NDArray[np.int32] | None,
        states: Sequence[Array],
        outputs: Iterable[str],
        contexts: Sequence[Array] = (),
    ) -> tuple[dict[str, Array], list[Array]]: ...

    def initial_states(self, rows: int) -> list[Array]: ...

    def begin(self, contexts: Mapping[str, Array]) -> list[Array]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSize:
    """Size of the largest step that leaves the predictions unchanged."""

    rows: int
    chunk: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Predictions from `lag` on, `[rows, time, *shape]` by output."""

    lag: int
    plain: dict[str, Array]
    changed: dict[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beginning:
    """Initial states of the rows, and their contexts for every step: `[rows, *shape]` each."""

    states: list[Array]
    contexts: list[Array]

    @staticmethod
    def of(network: Network, contexts: Mapping[str, Array], rows: Sequence[int]) -> "_Beginning":
        """Begins each row alone, because rows in a batch may affect each other."""
        if not contexts:
            return _Beginning(states=network.initial_states(len(rows)), contexts=[])
        count = len(next(iter(contexts.values())))
        with _failures("to begin from random contexts"):
            begun = [
                network.begin({name: value[row : row + 1] for name, value in contexts.items()})
                for row in range(count)
            ]
        own = [row % count for row in rows]
        return _Beginning(
            states=[np.concatenate(parts)[own] for parts in zip(*begun, strict=True)],
            contexts=[contexts[context.name][own] for context in network.spec.step_contexts],
        )


def measure(
    network: Network,
    sample: Sample,
    most: StepSize,
    contexts: Mapping[str, Array] | None = None,
) -> tuple[Influence, ...]:
    """Returns the influence on each output, in the spec's order, at lags 0 to `sample.lags`.

    `most` limits the size of steps; except for rounding, the result does not depend on `most`.
    `contexts` holds values of each context in the spec, `[any, *shape]`; the rows use the values in
    turn. Raises `HorizonError` if a prediction is not finite, or if the network fails.
    """
    tallies = [Tally(out, sample.lags) for out in network.spec.outputs]
    # Each row may share a step with its copy, so a row counts twice.
    fit = max(1, _STEP_NBYTES // (2 * network.spec.output_nbytes))
    together = max(1, min(most.rows // 2, fit))
    chunk = max(1, min(most.chunk, fit // together))
    for start in range(0, len(sample.elements), together):
        part = sample.rows(start, start + together)
        rows = range(start, start + len(part.elements))
        beginning = _Beginning.of(network, contexts or {}, rows)
        for found in _predictions(network, part, beginning, chunk, copies=most.rows > 1):
            for tally in tallies:
                name = tally.spec.name
                tally.add(found.lag, found.plain[name], found.changed[name])
    return tuple(tally.influence() for tally in tallies)


def _predictions(
    network: Network, sample: Sample, beginning: _Beginning, chunk: int, *, copies: bool
) -> Iterator[_Part]:
    """Yields predictions by lag. `copies`: whether rows may share steps with their copies."""
    names = [out.name for out in network.spec.outputs]
    states, contexts = beginning.states, beginning.contexts
    before = -sample.warm_up
    for elements in _chunks(sample.elements[:, : sample.warm_up], chunk):
        with _failures(_step_from(before)):
            _, states = network.step(elements, None, states, names, contexts)
        before += elements.shape[1]
    changed_states, lag = states, 0
    twice = [np.concatenate([context, context]) for context in contexts]
    for elements in _chunks(sample.elements[:, sample.warm_up :], chunk):
        changed = elements
        if lag == 0:
            changed = elements.copy()
            changed[:, 0] = sample.replacements
        with _failures(_step_from(lag)):
            if copies:
                rows = len(elements)
                both = [np.concatenate(pair) for pair in zip(states, changed_states, strict=True)]
                pair = np.concatenate([elements, changed])
                values, both = network.step(pair, None, both, names, twice)
                states, changed_states = [s[:rows] for s in both], [s[rows:] for s in both]
                one = {name: value[:rows] for name, value in values.items()}
                two = {name: value[rows:] for name, value in values.items()}
            else:
                one, states = network.step(elements, None, states, names, contexts)
                two, changed_states = network.step(changed, None, changed_states, names, contexts)
        yield _Part(lag=lag, plain=one, changed=two)
        lag += elements.shape[1]


def _chunks(elements: Array, chunk: int) -> Iterator[Array]:
    for start in range(0, elements.shape[1], chunk):
        yield elements[:, start : start + chunk]


@contextmanager
def _failures(where: str) -> Iterator[None]:
    """Turns an exception of the network into a `HorizonError` with the place in the measurement."""
    try:
        yield
    except Exception as error:  # each runtime has its own exception classes
        reason = " ".join(str(error).split())
        raise HorizonError(f"the network failed {where}: {reason}") from error


def _step_from(lag: int) -> str:
    """Describes a step by the lag of its first element."""
    start = f"lag {lag}" if lag >= 0 else f"{-lag} elements before the change"
    return f"in the step from {start} on"
