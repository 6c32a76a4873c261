"""Runs a network twice from one point on, once with one element replaced, and compares.

Each row of the sample is run up to its element in question; from there on it goes on as it is and
as a copy with that one element replaced, both with the same elements after it. This module does not
know what runs a step.
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
"""What one step's outputs may take."""


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
    """How many elements may go through one step without a change to what comes out."""

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
    """The rows' first states, and what they are given at every step: `[rows, *shape]` each."""

    states: list[Array]
    contexts: list[Array]

    @staticmethod
    def of(network: Network, contexts: Mapping[str, Array], rows: Sequence[int]) -> "_Beginning":
        """Row by row, as rows that begin together may affect one another."""
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
    """The influence on each output, in the spec's order, at the lags 0 to `sample.lags`.

    `most` bounds the steps; but for rounding, what comes out does not depend on it. `contexts` are
    some values of each that the spec names, `[any, *shape]`, which the rows take in turn. Raises
    `HorizonError` if a prediction is not finite, or if the network fails.
    """
    tallies = [Tally(out, sample.lags) for out in network.spec.outputs]
    # A row and its copy make two.
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
    """`copies` says whether rows may share a step with their copies."""
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
    """Has the network's failures say where in the measurement they were."""
    try:
        yield
    except Exception as error:  # a runtime raises classes of its own
        reason = " ".join(str(error).split())
        raise HorizonError(f"the network failed {where}: {reason}") from error


def _step_from(lag: int) -> str:
    """Where a step is whose first element lies so many behind the change."""
    start = f"lag {lag}" if lag >= 0 else f"{-lag} elements before the change"
    return f"in the step from {start} on"
