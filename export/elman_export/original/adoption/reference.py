"""The original graph in plain ONNX Runtime, with the original names: the reference for a step
model.

The graph runs on a single sequence, element by element. The states' pairs connect the runs. If the
graph takes several steps at once, it also runs on whole sequences.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from elman_export.errors import ExportError
from elman_export.original.adoption.layout import Layout
from elman_export.original.adoption.roles import Roles
from elman_export.proof.proof import Sequences
from elman_export.proof.stepmodel import Arrays, RuntimeFailed, Session


class Reference:
    """Runs of the graph on single sequences."""

    def __init__(
        self, model: onnx.ModelProto, roles: Roles, layout: Layout, *, overlap: int
    ) -> None:
        self._session = Session(model.SerializeToString())
        self._roles = roles
        self._layout = layout
        self._overlap = overlap

    @property
    def pairs(self) -> str:
        """The states' pairs, for messages."""
        return ", ".join(f"{s.input.name}:{s.output.name}" for s in self._roles.states)

    def stepwise(self, sequences: Sequences) -> Arrays:
        """Runs element by element. Returns `[batch, time, *shape]` by output."""
        return _joined(
            [
                _joined(list(self._steps(x, contexts)), axis=1)
                for x, contexts in self._rows(sequences)
            ]
        )

    def whole(self, sequences: Sequences) -> Arrays | None:
        """Runs whole sequences, or all their prefixes for a graph with a single answer per
        sequence. Returns `[batch, time, *shape]` by output, or `None` if the graph takes only
        single elements."""
        if self._layout.element.time is None:
            return self._prefixes(sequences) if self._layout.many_steps else None
        return _joined(
            [self._run(x, self._first(), contexts)[0] for x, contexts in self._rows(sequences)]
        )

    def _prefixes(self, sequences: Sequences) -> Arrays | None:
        """Runs on every prefix of each sequence. Returns `None` if the graph does not take several
        elements."""
        units = self._layout.element.units
        found = []
        for x, contexts in self._rows(sequences):
            parts = []
            for stop in range(1, x.shape[1] + 1):
                try:
                    parts.append(self._run(x[:, :stop], self._first(), contexts, units=units)[0])
                except ExportError:
                    return None
            if any(p[name].shape[:2] != (1, 1) for p in parts for name in p):
                return None
            found.append(_joined(parts, axis=1))
        return _joined(found)

    def _rows(self, sequences: Sequences) -> Iterator[tuple[np.ndarray, Arrays]]:
        """Yields each sequence as the graph's elements `[1, time, *shape]`, with its contexts."""
        for row in range(len(sequences.elements)):
            x = sequences.elements[row : row + 1]
            contexts = {name: v[row : row + 1] for name, v in sequences.contexts.items()}
            yield self._overlapping(x), contexts

    def _overlapping(self, x: np.ndarray) -> np.ndarray:
        """Puts the previous last values of the stream in front of each element, at first zeros."""
        if not self._overlap:
            return x
        before = np.zeros((*x[:, 0].shape[:-1], self._overlap), x.dtype)
        elements = []
        for position in range(x.shape[1]):
            element = np.concatenate([before, x[:, position]], axis=-1)
            before = element[..., -self._overlap :]
            elements.append(element)
        return np.stack(elements, 1)

    def _first(self) -> Arrays:
        states = {}
        for state in self._roles.states:
            axes = self._layout.states[state.input.name]
            value = np.zeros(axes.sizes(1, 1), state.input.dtype)
            if state.initial is not None:
                value = np.broadcast_to(state.initial, value.shape).copy()
            states[state.input.name] = value
        return states

    def _steps(self, x: np.ndarray, contexts: Arrays) -> Iterator[Arrays]:
        states = self._first()
        for position in range(x.shape[1]):
            outputs, states = self._run(x[:, position : position + 1], states, contexts)
            yield outputs

    def _run(
        self,
        x: np.ndarray,
        states: Arrays,
        contexts: Arrays,
        *,
        units: tuple[int, ...] = (),
    ) -> tuple[Arrays, Arrays]:
        """Runs the graph once. Without a time axis in the graph, several steps go to an open axis
        in `units`."""
        roles, layout = self._roles, self._layout
        steps = x.shape[1]
        if steps > 1 and layout.element.time is None:
            arranged = np.concatenate(
                [layout.element.arrange(x[:, step : step + 1]) for step in range(steps)],
                axis=_open_axis(roles, units),
            )
        else:
            arranged = layout.element.arrange(x)
        feed: dict[str, np.ndarray] = {roles.element.name: arranged, **states, **roles.constants}
        for port in roles.contexts:
            feed[port.name] = layout.contexts[port.name].arrange(contexts[port.name][:, None])
        if roles.lengths is not None:
            feed[roles.lengths.name] = np.full(1, steps, roles.lengths.dtype)
        outputs = [port.name for port in roles.outputs]
        names = list(dict.fromkeys([*outputs, *(s.output.name for s in roles.states)]))
        try:
            found = self._session.run(names, feed)
            normal = {name: layout.outputs[name].normal(found[name]) for name in outputs}
        except (RuntimeFailed, ValueError) as error:  # ValueError: numpy's, for axes of other sizes
            raise ExportError(f"the graph can't run {steps} elements in a row: {error}") from None
        return normal, {s.input.name: found[s.output.name] for s in roles.states}


def _open_axis(roles: Roles, units: tuple[int, ...]) -> int:
    dims = roles.element.dims or ()
    return next((axis for axis in units if dims[axis] is None), 0)


def _joined(parts: list[Arrays] | list[Mapping[str, np.ndarray]], axis: int = 0) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts], axis) for name in parts[0]}
