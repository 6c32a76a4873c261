"""The load-time probe: runs a step model before anybody else does, to learn how it may be run.

It finds out whether shapes and states are as the spec says, whether a row's results depend, to the
bit, on what else is in its batch or on how its elements are chunked, and how long steps take. It
warms up the batch sizes that the model will see.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from elman_server.engine.scheduler import Chunking
from elman_server.errors import ModelLoadError
from elman_server.runner.model import Array, StepModel, one_line
from elman_server.spec import InputKind, InputSpec

_SEED = 1990
_STEPS = 4
"""Elements of each row."""
_WITNESSES = 8
"""Rows whose results are compared with those of the same rows run alone."""
_LONG_WITNESSES = 2
"""Rows of the longest chunk that the model will see."""
_TIMED_CHUNK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Seconds that a step takes: `base + per_time * chunk + per_element * rows * chunk`."""

    base: float
    per_time: float
    per_element: float

    def seconds(self, rows: int, chunk: int) -> float:
        return self.base + self.per_time * chunk + self.per_element * rows * chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What was found."""

    chunking: Chunking
    """The most that is exact."""
    batch_failure: str
    """Why batches of more than one row can't run at all; empty if they can."""
    dependent_rows: str
    """How rows of a batch affect one another; empty if they do not."""
    cost: StepCost


def probe(model: StepModel, *, max_batch_size: int, max_chunk: int) -> Probe:
    """Runs the model on random elements. Raises `ModelLoadError` if it does not do as its spec
    says."""
    names = [out.name for out in model.spec.outputs]
    try:
        elements = _random(model.spec.input, (max(max_batch_size, _WITNESSES), _STEPS))
        alone = _each_alone(model, elements[:_WITNESSES], names)
    except Exception as error:
        raise ModelLoadError(f"a step of one element failed: {one_line(error)}") from error
    _check_shapes(model, alone)
    failure = dependent = ""
    try:
        dependent = _dependent_rows(model, elements, alone, names, max_batch_size)
    except _BatchFailed as error:
        failure = str(error)
    rows = 1 if failure or dependent else max_batch_size
    witnesses = [_Witnesses(elements[:_WITNESSES], alone)]
    if model.spec.time_axis:
        long = _random(model.spec.input, (_LONG_WITNESSES, max_chunk))
        witnesses.append(_Witnesses(long, _each_alone(model, long, names)))
    chunking = _chunking(model, witnesses, names, rows)
    return Probe(
        chunking=chunking,
        batch_failure=failure,
        dependent_rows=dependent,
        cost=_cost(model, elements[:rows], names, chunked=chunking is not Chunking.SINGLE),
    )


class _BatchFailed(Exception):
    pass


@dataclass(frozen=True, slots=True)
class _Witnesses:
    """Rows of elements, `[rows, steps, *shape]`, and what each gives when it is run alone."""

    elements: Array
    alone: "_Results"

    def part(self, start: int, rows: int) -> "_Witnesses":
        stop = min(start + rows, len(self.elements))
        return _Witnesses(self.elements[start:stop], self.alone.rows(range(start, stop)))


@dataclass(frozen=True, slots=True)
class _Results:
    """`outputs[i]` is `[rows, steps, *shape]`, `states[i]` is `[rows, *shape]`."""

    outputs: list[Array]
    states: list[Array]

    @staticmethod
    def join(parts: "Sequence[_Results]") -> "_Results":
        return _Results(
            [np.concatenate(arrays) for arrays in zip(*(p.outputs for p in parts), strict=True)],
            [np.concatenate(arrays) for arrays in zip(*(p.states for p in parts), strict=True)],
        )

    def rows(self, rows: Sequence[int]) -> "_Results":
        return _Results(
            [array[rows] for array in self.outputs], [array[rows] for array in self.states]
        )

    def difference(self, other: "_Results") -> float | None:
        """The largest absolute difference, or None if all is equal to the bit."""
        pairs = list(zip(self.outputs + self.states, other.outputs + other.states, strict=True))
        if all(a.tobytes() == b.tobytes() for a, b in pairs):
            return None
        return max(
            float(np.nanmax(np.abs(a.astype(np.float64) - b.astype(np.float64)))) for a, b in pairs
        )


def _dependent_rows(
    model: StepModel, elements: Array, alone: _Results, names: list[str], max_batch_size: int
) -> str:
    rng = np.random.default_rng(_SEED)
    for size in _batch_sizes(max_batch_size):
        witnesses = min(size, _WITNESSES)
        # The witnesses stand anywhere among other rows.
        places = rng.permutation(size)[:witnesses]
        batch = elements[-size:].copy()
        batch[places] = elements[:witnesses]
        try:
            together = _stepwise(model, batch, names).rows(places.tolist())
            difference = together.difference(alone.rows(list(range(witnesses))))
        except Exception as error:
            raise _BatchFailed(f"a batch of {size} failed: {one_line(error)}") from error
        if difference is not None:
            return f"in a batch of {size} results differ from those alone by {difference:.3g}"
    return ""


def _batch_sizes(largest: int) -> Iterable[int]:
    """Small ones, powers of two, their neighbours, and the largest: where kernels change."""
    sizes = {2, 3, 5, largest}
    size = 4
    while size <= largest:
        sizes |= {size, size + 1}
        size *= 2
    return sorted(size for size in sizes if 1 < size <= largest)


def _chunking(
    model: StepModel, witnesses: "list[_Witnesses]", names: list[str], rows: int
) -> Chunking:
    """Compares chunks with single elements, as many rows together as the model may have."""
    if not model.spec.time_axis:
        return Chunking.SINGLE

    def exact(ragged: bool) -> bool:
        return all(
            _chunk_is_exact(model, group.part(start, rows), names, ragged=ragged)
            for group in witnesses
            for start in range(0, len(group.elements), rows)
        )

    if not _holds(lambda: exact(False)):
        return Chunking.SINGLE
    if model.spec.lengths is None:
        return Chunking.EQUAL
    return Chunking.RAGGED if _holds(lambda: exact(True)) else Chunking.EQUAL


def _chunk_is_exact(
    model: StepModel, witnesses: "_Witnesses", names: list[str], *, ragged: bool
) -> bool:
    """Runs the rows' first elements in one step and what is left one by one."""
    elements, alone = witnesses.elements, witnesses.alone
    rows, steps = elements.shape[:2]
    # Ragged: lengths from all to one, in no order.
    lengths = (7 * np.arange(rows) * ragged + steps - 1) % steps + 1
    outputs, states = model.step(
        elements,
        lengths.astype(np.int32) if ragged else None,
        model.initial_states(rows),
        names,
    )
    for row, length in enumerate(lengths):
        rest_outputs, rest_states = [], [state[row : row + 1] for state in states]
        for step in range(length, steps):
            values, rest_states = model.step(
                elements[row : row + 1, step : step + 1], None, rest_states, names
            )
            rest_outputs.append(values)
        found = _Results(
            [
                np.concatenate(
                    [outputs[name][row : row + 1, :length], *(v[name] for v in rest_outputs)],
                    axis=1,
                )
                for name in names
            ],
            rest_states,
        )
        if found.difference(alone.rows([row])) is not None:
            return False
    return True


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception:
        # The runtime can't do it at all, whatever it calls its error.
        return False


def _each_alone(model: StepModel, elements: Array, names: list[str]) -> _Results:
    return _Results.join(
        [_stepwise(model, elements[row : row + 1], names) for row in range(len(elements))]
    )


def _stepwise(model: StepModel, elements: Array, names: list[str]) -> _Results:
    states = model.initial_states(len(elements))
    outputs = []
    for step in range(elements.shape[1]):
        values, states = model.step(elements[:, step : step + 1], None, states, names)
        outputs.append(values)
    return _Results(
        [np.concatenate([values[name] for values in outputs], axis=1) for name in names], states
    )


def _check_shapes(model: StepModel, results: _Results) -> None:
    for out, array in zip(model.spec.outputs, results.outputs, strict=True):
        if array.shape[2:] != out.shape:
            raise ModelLoadError(
                f"output {out.name!r} has shape {list(array.shape[2:])} for an element; "
                f"the spec says {list(out.shape)}"
            )
    for state, array in zip(model.spec.states, results.states, strict=True):
        if array.shape[1:] != state.shape:
            raise ModelLoadError(
                f"state {state.name!r} comes back in shape {list(array.shape[1:])}; "
                f"the spec says {list(state.shape)}"
            )


def _cost(model: StepModel, elements: Array, names: list[str], *, chunked: bool) -> StepCost:
    rows = len(elements)
    one = _seconds(model, elements[:1, :1], names)
    per_row = 0.0
    if rows > 1:
        per_row = max(0.0, (_seconds(model, elements[:, :1], names) - one) / (rows - 1))
    per_time = per_row
    if chunked:
        chunk = np.repeat(elements[:1, :1], _TIMED_CHUNK, axis=1)
        per_time = max(per_row, (_seconds(model, chunk, names) - one) / (_TIMED_CHUNK - 1))
    return StepCost(base=max(0.0, one - per_time), per_time=per_time - per_row, per_element=per_row)


def _seconds(model: StepModel, elements: Array, names: list[str]) -> float:
    """The fastest of a few steps: what else the machine does only ever adds to it."""
    states = model.initial_states(len(elements))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        model.step(elements, None, states, names)
        times.append(time.perf_counter() - start)
    return min(times)


def _random(spec: InputSpec, shape: tuple[int, ...]) -> Array:
    rng = np.random.default_rng(_SEED)
    if spec.kind is InputKind.FEATURES:
        return rng.normal(size=(*shape, *spec.shape)).astype(spec.dtype)
    ids = rng.integers(0, spec.size, shape).astype(spec.dtype)
    # An id that the graph does not have is told at load and not by a session's failed step.
    ids.flat[:2] = 0, spec.size - 1
    return ids
