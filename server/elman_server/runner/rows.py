"""Rows for the probe, and their results. The numbers are random but seeded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from elman_server.model.spec import InputKind, InputSpec, ModelSpec
from elman_server.runner.model import Array, StepModel

_SEED = 1990


@dataclass(frozen=True, slots=True)
class Rows:
    """Sessions with their elements, each before its first step."""

    elements: Array
    """`[rows, steps, *shape]`"""
    states: list[Array]
    """`[rows, *shape]` each, in the order of the spec's `states`."""
    contexts: list[Array]
    """`[rows, *shape]` each, in the order of the spec's `step_contexts`."""

    def __len__(self) -> int:
        return len(self.elements)

    def take(self, rows: Sequence[int] | slice) -> "Rows":
        return Rows(
            self.elements[rows],
            [state[rows] for state in self.states],
            [context[rows] for context in self.contexts],
        )

    def stepwise(
        self, model: StepModel, names: list[str], kept: Sequence[int] | None = None
    ) -> "Results":
        """Runs the rows, one element in a step. Returns the results of rows `kept`; `None`: of all
        rows."""
        states, outputs = self.states, []
        rows = slice(None) if kept is None else list(kept)
        for step in range(self.elements.shape[1]):
            elements = self.elements[:, step : step + 1]
            values, states = model.step(elements, None, states, names, self.contexts)
            outputs.append({name: value[rows] for name, value in values.items()})
        return Results(
            [np.concatenate([values[name] for values in outputs], axis=1) for name in names],
            [state[rows] for state in states],
        )

    def each_alone(self, model: StepModel, names: list[str]) -> "Results":
        """Runs each row alone."""
        return Results.join([self.take([row]).stepwise(model, names) for row in range(len(self))])


@dataclass(frozen=True, slots=True)
class Results:
    """Results of rows: `outputs[i]` is `[rows, steps, *shape]`, `states[i]` is `[rows, *shape]`."""

    outputs: list[Array]
    states: list[Array]

    @staticmethod
    def join(parts: "Sequence[Results]") -> "Results":
        return Results(
            [np.concatenate(arrays) for arrays in zip(*(p.outputs for p in parts), strict=True)],
            [np.concatenate(arrays) for arrays in zip(*(p.states for p in parts), strict=True)],
        )

    def rows(self, rows: Sequence[int]) -> "Results":
        return Results(
            [array[rows] for array in self.outputs], [array[rows] for array in self.states]
        )

    def difference(self, other: "Results") -> float | None:
        """Returns the largest absolute difference, or `None` if all results are equal to the
        bit."""
        pairs = list(zip(self.outputs + self.states, other.outputs + other.states, strict=True))
        if all(a.tobytes() == b.tobytes() for a, b in pairs):
            return None
        return max(
            float(np.nanmax(np.abs(a.astype(np.float64) - b.astype(np.float64)))) for a, b in pairs
        )


def random_elements(spec: InputSpec, shape: tuple[int, ...]) -> Array:
    """Returns random elements `[*shape, *spec.shape]`."""
    rng = np.random.default_rng(_SEED)
    if spec.kind is InputKind.FEATURES:
        return rng.normal(size=(*shape, *spec.shape)).astype(spec.dtype)
    ids = rng.integers(0, spec.size, shape).astype(spec.dtype)
    # The probe uses the lowest and highest id, so that an id missing in the graph fails the load
    # and not a session's step.
    ids.flat[:2] = 0, spec.size - 1
    return ids


def random_contexts(spec: ModelSpec, rows: int) -> dict[str, Array]:
    """Returns contexts `[rows, *shape]` by name: standard normal numbers, or 0 and 1 for an integer
    type, because the valid range of such a context is not known."""
    rng = np.random.default_rng(_SEED)
    return {
        each.name: (
            rng.standard_normal((rows, *each.shape))
            if np.issubdtype(each.dtype, np.floating)
            else rng.integers(0, 2, (rows, *each.shape))
        ).astype(each.dtype)
        for each in spec.contexts
    }
