"""The original whole-sequence graph in ONNX Runtime: the reference for step models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from elman_export.errors import UnsupportedGraph
from elman_export.proof.proof import Sequences
from elman_export.proof.stepmodel import Arrays, Session
from elman_export.surgery.given import Lengths
from elman_export.surgery.layout import Layout
from elman_server.model.spec import ContextSpec, InputSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An output, with shape and axes from runs of different sizes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """The shape for one element."""
    batch: int | None
    time: int | None
    """The time axis. None: an output of the whole sequence, read at the last step."""


class Original:
    """Runs a graph on whole sequences."""

    def __init__(
        self,
        model: onnx.ModelProto,
        *,
        input: InputSpec,
        layout: Layout,
        lengths: Lengths | None = None,
        contexts: Sequence[ContextSpec] = (),
    ) -> None:
        self.layout = layout
        self._input = input
        self._lengths = lengths
        self._contexts = contexts
        self._session = Session(model.SerializeToString())

    def feed(self, x: np.ndarray, contexts: Arrays | None = None) -> Arrays:
        """The graph's inputs for `x`, in the graph's layout, and contexts, `[batch, *shape]`.

        Missing contexts are zeros.
        """
        layout = self.layout
        rows = 1 if layout.batch is None else x.shape[layout.batch]
        feed = {self._input.name: x}
        for each in self._contexts:
            zeros = np.zeros((rows, *each.shape), each.dtype)
            feed[each.name] = zeros if contexts is None else contexts[each.name]
        if self._lengths is not None:
            feed[self._lengths.name] = np.full(rows, x.shape[layout.time], self._lengths.dtype)
        return feed

    def run(self, x: np.ndarray, contexts: Arrays | None = None) -> Arrays:
        """Runs `x`, `[batch, time, *shape]`; returns outputs in the graph's layout."""
        return self._session.run(self._session.outputs, self.feed(self.layout.arrange(x), contexts))

    def try_length(self, time: int) -> None:
        """Raises `RuntimeFailed` if the graph does not run for `time` steps."""
        # A shape of [8, -1] also takes 4 steps of 2 rows, but not both 5 rows and 7 rows.
        for rows in (self.layout.fixed_batch,) if self.layout.fixed_batch else (5, 7):
            self.run(np.zeros((rows, time, *self._input.shape), self._input.dtype))

    def look(self, sizes: tuple[tuple[int, int], ...]) -> list[Seen]:
        """The outputs, with batch and time axes.

        `sizes` are the (batch, time) of three runs: a first, a longer and a wider run. Raises
        `UnsupportedGraph` for an output with an axis that grows in another way.
        """
        zeros = [
            np.zeros((batch, time, *self._input.shape), self._input.dtype) for batch, time in sizes
        ]
        runs = [self.run(x) for x in zeros]
        found = []
        for name in self._session.outputs:
            one, longer, wider = (each[name] for each in runs)
            time = _grown(name, one.shape, longer.shape, sizes[0][1], sizes[1][1])
            batch = _grown(name, one.shape, wider.shape, sizes[0][0], sizes[2][0])
            if batch is None and self.layout.batch is not None:
                batch = 0 if time != 0 else 1
                if one.ndim <= batch or one.shape[batch] != sizes[0][0]:
                    raise UnsupportedGraph(
                        f"output {name!r} has shape {list(one.shape)} for {sizes[0][0]} sequences "
                        f"of {sizes[0][1]} elements: it does not come for each of them"
                    )
            shape = [size for axis, size in enumerate(one.shape) if axis not in (batch, time)]
            found.append(
                Seen(name=name, dtype=str(one.dtype), shape=tuple(shape), batch=batch, time=time)
            )
        return found

    def answer(self, sequences: Sequences, outputs: Mapping[str, Seen]) -> Arrays:
        """Outputs by name, each `[batch, time, *shape]`.

        An output of the whole sequence is computed for the first element, the first two elements,
        and so on. For a long sequence, some positions are left out and masked.
        """
        x, contexts = sequences.elements, sequences.contexts
        rows = self.layout.fixed_batch or len(x)
        # The last row is repeated until a batch of fixed size is full.
        chosen = np.minimum(np.arange(-(-len(x) // rows) * rows), len(x) - 1)
        parts = []
        for start in range(0, len(chosen), rows):
            part = chosen[start : start + rows]
            given = {name: value[part] for name, value in contexts.items()}
            parts.append(self._answer(x[part], given, outputs))
        return {name: _joined([part[name] for part in parts])[: len(x)] for name in outputs}

    def _answer(self, x: np.ndarray, contexts: Arrays, outputs: Mapping[str, Seen]) -> Arrays:
        whole = self.run(x, contexts)
        found = {
            name: _normal(whole[name], seen)
            for name, seen in outputs.items()
            if seen.time is not None
        }
        last = {name: seen for name, seen in outputs.items() if seen.time is None}
        if last:
            asked = _asked(x.shape[1])
            prefixes = [self.run(x[:, : stop + 1], contexts) for stop in asked]
            for name, seen in last.items():
                steps = np.concatenate([_normal(prefix[name], seen) for prefix in prefixes], axis=1)
                every = np.ma.MaskedArray(
                    np.zeros((len(x), x.shape[1], *seen.shape), steps.dtype), mask=True
                )
                every[:, asked] = steps
                found[name] = every
        return found


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    joined: np.ndarray = np.ma.concatenate(parts)  # type: ignore[no-untyped-call]
    return joined


def _asked(time: int) -> list[int]:
    """The positions at which a head on the last step runs: all, or some of a long sequence."""
    if time <= 32:
        return list(range(time))
    return sorted({*range(8), *(int(each) for each in np.geomspace(8, time - 1, 16))})


def _normal(value: np.ndarray, seen: Seen) -> np.ndarray:
    """`[batch, time, *shape]`; a single step for an output without a time axis."""
    if seen.time is None:
        moved = value[None] if seen.batch is None else np.moveaxis(value, seen.batch, 0)
        return moved[:, None]
    if seen.batch is None:
        return np.moveaxis(value, seen.time, 0)[None]
    return np.moveaxis(value, (seen.batch, seen.time), (0, 1))


def _grown(
    name: str, one: tuple[int, ...], other: tuple[int, ...], size: int, other_size: int
) -> int | None:
    """The axis with length `size` in one run and `other_size` in the other; None if unchanged."""
    if size == other_size or one == other:
        return None
    changed = [
        axis for axis, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) > 1
    ]
    if len(one) == len(other) and len(changed) == 1:
        (axis,) = changed
        if (one[axis], other[axis]) == (size, other_size):
            return axis
    raise UnsupportedGraph(
        f"output {name!r} has shape {list(one)} where the sequence is {size} long, and "
        f"{list(other)} where it is {other_size} long: it does not come for each element"
    )
