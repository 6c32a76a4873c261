"""The load-time probe: runs a step model before it serves, to learn how it may run.

Checks shapes and states against the spec. Compares a row's results, to the bit, between different
batches and different chunks. Measures how long steps take, and warms up the batch sizes to come.
Does the same for an initial-state network.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from elman_server.engine.limits import Chunking
from elman_server.errors import ModelLoadError
from elman_server.runner.model import Array, StepModel
from elman_server.runner.rows import Results, Rows, random_contexts, random_elements
from elman_server.runner.runtime import one_line

_SEED = 1990
STEPS = 4
"""Elements of each row."""
MOST_WITNESSES = 8
"""Witnesses: rows with results to compare, in a batch and alone."""
LEAST_WITNESSES = 2
_LONG_WITNESSES = 2
"""Witnesses with the longest chunk to come."""
_TIMED_CHUNK = 16
_LONG_BEGINNING = 1e-3
"""Seconds. An initial-state network with more time per row gains little from running several rows
together, and a test would take long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Seconds of a step: `base + per_time * chunk + per_element * rows * chunk`."""

    base: float
    per_time: float
    per_element: float

    def seconds(self, rows: int, chunk: int) -> float:
        return self.base + self.per_time * chunk + self.per_element * rows * chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginningCost:
    """Cost of initialization from contexts, in seconds: `base + per_row * rows`."""

    together: bool = False
    """Whether the initial-state network may run for several rows at once."""
    base: float = 0.0
    per_row: float = 0.0

    def seconds(self, rows: int) -> float:
        return self.base + self.per_row * rows

    def rows(self, seconds: float, most: int) -> int:
        """Returns how many rows, from 1 to `most`, fit into `seconds`."""
        if not self.per_row:
            return most
        return min(most, max(1, int((seconds - self.base) / self.per_row)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Results of the probe."""

    chunking: Chunking
    """The most general chunking with exact results."""
    batch_failure: str
    """Reason why batches of more than one row can't run at all; empty if they can."""
    dependent_rows: str
    """Difference of results in a batch and alone, as text; empty if rows are independent."""
    cost: StepCost
    beginning: BeginningCost


def probe(
    model: StepModel, *, max_batch_size: int, max_chunk: int, witnesses: int = MOST_WITNESSES
) -> Probe:
    """Runs the model on random elements and contexts, in batches of at most `max_batch_size` rows.
    Compares the results of `witnesses` rows in batches and alone, over `STEPS` elements each.

    Raises `ModelLoadError` if the model contradicts its spec.
    """
    spec = model.spec
    names = [out.name for out in spec.outputs]
    if not spec.batched:
        max_batch_size = 1
    rows = _rows(model, max(max_batch_size, witnesses), STEPS, witnesses)
    try:
        alone = rows.take(slice(witnesses)).each_alone(model, names)
    except Exception as error:
        raise ModelLoadError(f"a step of one element failed: {one_line(error)}") from error
    _check_shapes(model, alone)
    failure = dependent = ""
    if not spec.batched:
        failure = "its spec says so"
    try:
        dependent = _dependent_rows(model, rows, alone, names, max_batch_size, witnesses)
    except _BatchFailed as error:
        failure = str(error)
    together = 1 if failure or dependent else max_batch_size
    groups = [_Witnesses(rows.take(slice(witnesses)), alone)]
    if spec.time_axis:
        long = _rows(model, _LONG_WITNESSES, max_chunk, _LONG_WITNESSES)
        groups.append(_Witnesses(long, long.each_alone(model, names)))
    chunking = _chunking(model, groups, names, together)
    return Probe(
        chunking=chunking,
        batch_failure=failure,
        dependent_rows=dependent,
        cost=_cost(
            model, rows.take(slice(together)), names, chunked=chunking is not Chunking.SINGLE
        ),
        beginning=_beginning(model, max_batch_size, witnesses),
    )


def _rows(model: StepModel, rows: int, steps: int, witnesses: int) -> Rows:
    """Returns random rows. Each witness is initialized alone; the other rows copy the witnesses'
    states."""
    spec = model.spec
    elements = random_elements(spec.input, (rows, steps))
    if not spec.contexts:
        return Rows(elements, model.initial_states(rows), [])
    contexts = random_contexts(spec, rows)
    states = _begin_alone(model, contexts, witnesses)
    copies = np.arange(rows) % witnesses
    return Rows(
        elements,
        [state[copies] for state in states],
        [contexts[context.name] for context in spec.step_contexts],
    )


def _begin_alone(model: StepModel, contexts: dict[str, Array], rows: int) -> list[Array]:
    try:
        begun = [
            model.begin({name: value[row : row + 1] for name, value in contexts.items()})
            for row in range(rows)
        ]
    except Exception as error:
        raise ModelLoadError(f"the initial-state network failed: {one_line(error)}") from error
    return [np.concatenate(parts) for parts in zip(*begun, strict=True)]


def _beginning(model: StepModel, max_batch_size: int, witnesses: int) -> BeginningCost:
    spec = model.spec
    if not spec.contexts:
        return BeginningCost()
    contexts = random_contexts(spec, max(max_batch_size, witnesses))

    def part(rows: int) -> dict[str, Array]:
        return {name: value[:rows] for name, value in contexts.items()}

    one = _fastest(lambda: model.begin(part(1)))
    if max_batch_size == 1 or one > _LONG_BEGINNING:
        return BeginningCost(per_row=one)
    if not _holds(lambda: _begins_together(model, contexts, max_batch_size, witnesses)):
        return BeginningCost(per_row=one)
    all_rows = _fastest(lambda: model.begin(part(max_batch_size)))
    per_row = max(0.0, all_rows - one) / (max_batch_size - 1)
    return BeginningCost(together=True, base=max(0.0, one - per_row), per_row=per_row)


def _begins_together(
    model: StepModel, contexts: dict[str, Array], max_batch_size: int, witnesses: int
) -> bool:
    """Whether witnesses get the same states, to the bit, alone and in batches of all sizes."""
    alone = Results([], _begin_alone(model, contexts, witnesses))
    rng = np.random.default_rng(_SEED)
    for size in _batch_sizes(max_batch_size):
        order, places = _scattered(rng, size, len(next(iter(contexts.values()))), witnesses)
        together = model.begin({name: value[order] for name, value in contexts.items()})
        found = Results([], together).rows(places)
        if found.difference(alone.rows(range(len(places)))) is not None:
            return False
    return True


class _BatchFailed(Exception):
    pass


@dataclass(frozen=True, slots=True)
class _Witnesses:
    """Rows, and each row's results when run alone."""

    rows: Rows
    alone: Results

    def part(self, start: int, rows: int) -> "_Witnesses":
        stop = min(start + rows, len(self.rows))
        return _Witnesses(self.rows.take(slice(start, stop)), self.alone.rows(range(start, stop)))


def _dependent_rows(
    model: StepModel,
    rows: Rows,
    alone: Results,
    names: list[str],
    max_batch_size: int,
    witnesses: int,
) -> str:
    rng = np.random.default_rng(_SEED)
    for size in _batch_sizes(max_batch_size):
        order, places = _scattered(rng, size, len(rows), witnesses)
        try:
            together = rows.take(order).stepwise(model, names, places)
            difference = together.difference(alone.rows(range(len(places))))
        except Exception as error:
            raise _BatchFailed(f"a batch of {size} failed: {one_line(error)}") from error
        if difference is not None:
            return f"in a batch of {size} results differ from those alone by {difference:.3g}"
    return ""


def _scattered(
    rng: np.random.Generator, size: int, rows: int, witnesses: int
) -> tuple[list[int], list[int]]:
    """Returns a batch of `size` rows with the witnesses at random places, and the places."""
    places = rng.permutation(size)[:witnesses]
    order = np.arange(rows)[-size:]
    order[places] = np.arange(len(places))
    return order.tolist(), places.tolist()


def _batch_sizes(largest: int) -> Iterable[int]:
    """Returns small sizes, powers of two, the sizes after them, and the largest: where kernels
    change."""
    sizes = {2, 3, 5, largest}
    size = 4
    while size <= largest:
        sizes |= {size, size + 1}
        size *= 2
    return sorted(size for size in sizes if 1 < size <= largest)


def _chunking(
    model: StepModel, witnesses: list[_Witnesses], names: list[str], rows: int
) -> Chunking:
    """Finds the chunking by comparing chunks with single elements, at most `rows` rows together."""
    if not model.spec.time_axis:
        return Chunking.SINGLE

    def exact(ragged: bool) -> bool:
        return all(
            _chunk_is_exact(model, group.part(start, rows), names, ragged=ragged)
            for group in witnesses
            for start in range(0, len(group.rows), rows)
        )

    if not _holds(lambda: exact(False)):
        return Chunking.SINGLE
    if model.spec.lengths is None:
        return Chunking.EQUAL
    return Chunking.RAGGED if _holds(lambda: exact(True)) else Chunking.EQUAL


def _chunk_is_exact(
    model: StepModel, witnesses: _Witnesses, names: list[str], *, ragged: bool
) -> bool:
    """Whether a step with several elements, followed by single elements, gives the results of
    single elements alone."""
    tried, elements = witnesses.rows, witnesses.rows.elements
    rows, steps = elements.shape[:2]
    # Ragged: all lengths from `steps` down to 1, in mixed order.
    lengths = (7 * np.arange(rows) * ragged + steps - 1) % steps + 1
    outputs, states = model.step(
        elements,
        lengths.astype(np.int32) if ragged else None,
        tried.states,
        names,
        tried.contexts,
    )
    for row, length in enumerate(lengths):
        rest_outputs, rest_states = [], [state[row : row + 1] for state in states]
        contexts = tried.take([row]).contexts
        for step in range(length, steps):
            values, rest_states = model.step(
                elements[row : row + 1, step : step + 1], None, rest_states, names, contexts
            )
            rest_outputs.append(values)
        found = Results(
            [
                np.concatenate(
                    [outputs[name][row : row + 1, :length], *(v[name] for v in rest_outputs)],
                    axis=1,
                )
                for name in names
            ],
            rest_states,
        )
        if found.difference(witnesses.alone.rows([row])) is not None:
            return False
    return True


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception:
        # The runtime can't do this at all, whatever the class of its error.
        return False


def _check_shapes(model: StepModel, results: Results) -> None:
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


def _cost(model: StepModel, rows: Rows, names: list[str], *, chunked: bool) -> StepCost:
    def seconds(tried: Rows) -> float:
        return _fastest(
            lambda: model.step(tried.elements, None, tried.states, names, tried.contexts)
        )

    first = Rows(rows.elements[:, :1], rows.states, rows.contexts)
    one = seconds(first.take([0]))
    per_row = 0.0
    if len(rows) > 1:
        per_row = max(0.0, (seconds(first) - one) / (len(rows) - 1))
    per_time = per_row
    if chunked:
        alone = first.take([0])
        chunk = Rows(np.repeat(alone.elements, _TIMED_CHUNK, axis=1), alone.states, alone.contexts)
        per_time = max(per_row, (seconds(chunk) - one) / (_TIMED_CHUNK - 1))
    return StepCost(base=max(0.0, one - per_time), per_time=per_time - per_row, per_element=per_row)


def _fastest(run: Callable[[], object]) -> float:
    """Returns the seconds of the fastest of five runs: other work on the machine only adds time."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
