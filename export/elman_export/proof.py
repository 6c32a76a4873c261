"""The proof that a step model is the module it was made from.

The same sequences go through the module as a whole, and through the step model whole, one element
at a time, in random chunks, in ragged batches with lengths, and each row alone. The step model's
own answers must be equal to the last bit, final states included; against the module, whose kernels
add up in another order, they must agree to a tolerance.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime

from elman_export.errors import ProofFailed
from elman_server.spec import ModelSpec

Arrays = Mapping[str, np.ndarray]

TOLERANCE = 1e-4
"""Allowed difference from the module, times the largest value in its output where that is over 1.
"""

_PADDING_SEED = 7

_ROUNDING = 1e-5

_MIXES = (
    "the module mixes time steps or rows outside of its recurrent layers, or keeps a state "
    "elsewhere"
)
_ROUNDS = (
    "an operator rounds otherwise when it is given another number of rows or steps, as ONNX "
    "Runtime's reductions (sum, mean) do; a product with a constant matrix (nn.Linear) does not"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far a step model's output was from the module's, over everything that was compared."""

    output: str
    maximum: float
    """The largest absolute difference."""
    scale: float
    """The largest absolute value in the module's output."""
    tolerance: float
    """What `maximum` may be at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a step model said to some sequences, and the states that it was left with."""

    outputs: Arrays
    """By output name, `[batch, time, *shape]`."""
    states: Arrays
    """By state name, in the state's own layout."""


class StepModel:
    """A serialized step model in ONNX Runtime, run as a server would run it."""

    def __init__(self, model: bytes, spec: ModelSpec) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self.spec = spec

    def run(self, x: np.ndarray, cuts: Sequence[Sequence[int]]) -> Answer:
        """Feeds `x [batch, time, *shape]` in as many steps as each row has cuts.

        `cuts[row]` are the numbers of elements that the row's chunks have, in order, each at least
        1; rows have equally many chunks. In a step, rows with shorter chunks are padded with noise.
        """
        batch = len(x)
        states: Arrays = {
            state.name: np.repeat(
                np.expand_dims(state.initial_value(), state.batch_axis), batch, state.batch_axis
            )
            for state in self.spec.states
        }
        outputs: dict[str, np.ndarray] = {}
        position = np.zeros(batch, int)
        for lengths in np.array(cuts, np.int32).T:
            chunk = self._pad(x, position, lengths)
            answers, states = self._step(chunk, lengths, states)
            for name, answer in answers.items():
                if name not in outputs:
                    outputs[name] = np.zeros((*x.shape[:2], *answer.shape[2:]), answer.dtype)
                for row, (start, length) in enumerate(zip(position, lengths, strict=True)):
                    outputs[name][row, start : start + length] = answer[row, :length]
            position += lengths
        return Answer(outputs=outputs, states=states)

    def _step(
        self, chunk: np.ndarray, lengths: np.ndarray, states: Arrays
    ) -> tuple[Arrays, Arrays]:
        spec = self.spec
        feed = {spec.input.name: chunk} | {s.input: states[s.name] for s in spec.states}
        if spec.lengths is not None:
            feed[spec.lengths] = lengths
        wanted = [*(out.name for out in spec.outputs), *(state.output for state in spec.states)]
        found = dict(zip(wanted, self._session.run(wanted, feed), strict=True))
        return (
            {out.name: found[out.name] for out in spec.outputs},
            {state.name: found[state.output] for state in spec.states},
        )

    def _pad(self, x: np.ndarray, position: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """`[batch, longest, *shape]`: each row's next elements, then elements of other places."""
        longest = int(lengths.max())
        noise = np.random.default_rng(_PADDING_SEED).permutation(x.reshape(-1, *x.shape[2:]))
        chunk = np.resize(noise, (len(x), longest, *x.shape[2:]))
        for row, (start, length) in enumerate(zip(position, lengths, strict=True)):
            chunk[row, :length] = x[row, start : start + length]
        return chunk


def prove(
    whole: Callable[[np.ndarray], Arrays],
    model: StepModel,
    sequences: Sequence[np.ndarray],
    *,
    seed: int,
    tolerance: float,
) -> tuple[Difference, ...]:
    """Compares `whole`, the module on whole sequences, with `model`, by output.

    `sequences` are `[batch, time, *shape]` each. Raises `ProofFailed` with the largest difference
    that is not allowed, saying what was compared.
    """
    rng = np.random.default_rng(seed)
    maximum: dict[str, float] = {}
    scale: dict[str, float] = {}
    for x in sequences:
        expected = whole(x)
        answer = model.run(x, [[x.shape[1]]] * len(x))
        _check_equal(answer, list(_other_ways(model, x, rng)))
        for name, value in expected.items():
            if not np.isfinite(value).all():
                raise ProofFailed(f"the module's own output {name!r} is not finite")
            difference = np.abs(answer.outputs[name].astype(float) - value)
            if not np.isfinite(difference).all():
                raise ProofFailed(f"the step model's output {name!r} is not finite")
            maximum[name] = max(maximum.get(name, 0.0), float(difference.max(initial=0)))
            scale[name] = max(scale.get(name, 0.0), float(np.abs(value).max(initial=0)))
    differences = tuple(
        Difference(
            output=name,
            maximum=maximum[name],
            scale=scale[name],
            tolerance=tolerance * max(1.0, scale[name]),
        )
        for name in maximum
    )
    for difference in differences:
        if difference.maximum > difference.tolerance:
            raise ProofFailed(
                f"output {difference.output!r} of the step model differs from the module's by "
                f"{difference.maximum:.3g}; allowed are {difference.tolerance:.3g}: {_MIXES}"
            )
    return differences


def _other_ways(
    model: StepModel, x: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[str, Answer]]:
    """The same sequences cut up and put together otherwise."""
    batch, time = x.shape[:2]
    yield "one element at a time", model.run(x, [[1] * time] * batch)
    yield "in random chunks", model.run(x, [_cut(time, min(4, time), rng)] * batch)
    ragged = [_cut(time, min(5, time), rng) for _ in range(batch)]
    yield "in ragged batches", model.run(x, ragged)
    alone = [model.run(row[None], [cuts]) for row, cuts in zip(x, ragged, strict=True)]
    axes = {state.name: state.batch_axis for state in model.spec.states}
    yield (
        "each row alone",
        Answer(
            outputs={
                name: np.concatenate([answer.outputs[name] for answer in alone])
                for name in alone[0].outputs
            },
            states={
                name: np.concatenate([answer.states[name] for answer in alone], axis)
                for name, axis in axes.items()
            },
        ),
    )


def _cut(time: int, parts: int, rng: np.random.Generator) -> Sequence[int]:
    """`parts` random lengths of at least 1 that add up to `time`."""
    inner = np.sort(rng.choice(np.arange(1, time), parts - 1, replace=False))
    return [int(length) for length in np.diff([0, *inner, time])]


def _check_equal(whole: Answer, others: Sequence[tuple[str, Answer]]) -> None:
    """Raises `ProofFailed` with the largest difference of another way from `whole`, if any."""
    worst, message, rounding = 0.0, "", 0.0
    for way, other in others:
        for kind, one, two in (
            ("output", whole.outputs, other.outputs),
            ("state", whole.states, other.states),
        ):
            for name, value in one.items():
                if np.array_equal(value, two[name], equal_nan=True):
                    continue
                difference = np.abs(value.astype(float) - two[name]).max()
                if difference <= worst:
                    continue
                worst = difference
                rounding = _ROUNDING * max(1.0, np.abs(value.astype(float)).max())
                message = (
                    f"{kind} {name!r} differs by {difference:.3g} between sequences that the step "
                    f"model is given whole and {way}"
                )
    if message:
        raise ProofFailed(f"{message}: {_ROUNDS if worst <= rounding else _MIXES}")
