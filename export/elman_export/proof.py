"""The proof that a step model is the network that it was made from.

The same sequences go through the original as a whole, and through the step model whole, one element
at a time, in random chunks, in ragged batches with lengths, and each row alone. Every way must
agree with the original to a tolerance: kernels of two runtimes add up in another order. Where the
step model's operators are our own choice its answers must also be equal to the last bit, final
states included, whichever way they were asked for.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from elman_export.errors import ProofFailed
from elman_export.stepmodel import Answer, Arrays, StepModel

TOLERANCE = 1e-4
"""Allowed difference from the original, times the largest value in its output where that is over 1.
"""

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
class Sequences:
    """Sequences that a proof runs on."""

    elements: np.ndarray
    """`[batch, time, *shape]`."""
    source: str = "random"
    """Where they come from, for people: `random` or `examples`."""
    contexts: Arrays = field(default_factory=dict)
    """`[batch, *shape]` by context name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How far one output was from the original's, the step model being asked in one way."""

    output: str
    input: str
    """The source of the sequences."""
    way: str
    maximum: float
    """The largest absolute difference."""
    exact: bool
    """Whether outputs and states were equal, to the last bit, to those of the first way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far a step model's output was from the original's, over everything that was compared."""

    output: str
    maximum: float
    """The largest absolute difference."""
    scale: float
    """The largest absolute value in the original's output."""
    tolerance: float
    """What `maximum` may be at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was compared, and what came of it."""

    differences: tuple[Difference, ...]
    """By output, in the spec's order."""
    comparisons: tuple[Comparison, ...]
    """By output, then input, then way."""
    elements: int
    """How many elements were compared in each way."""
    seed: int

    @property
    def exact(self) -> bool:
        """Whether the step model said the same to the last bit whichever way it was asked."""
        return all(comparison.exact for comparison in self.comparisons)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


class _Tally:
    """The largest of what was seen, by output, input and way."""

    def __init__(self) -> None:
        self.maximum: dict[tuple[str, str, str], float] = {}
        self.exact: dict[tuple[str, str, str], bool] = {}
        self.scale: dict[str, float] = {}

    def add(self, output: str, input: str, way: str, *, maximum: float, exact: bool) -> None:
        key = (output, input, way)
        self.maximum[key] = max(self.maximum.get(key, 0.0), maximum)
        self.exact[key] = self.exact.get(key, True) and exact

    def comparisons(self) -> tuple[Comparison, ...]:
        return tuple(
            Comparison(
                output=key[0], input=key[1], way=key[2], maximum=maximum, exact=self.exact[key]
            )
            for key, maximum in sorted(self.maximum.items(), key=lambda item: item[0][:2])
        )

    def differences(self, tolerance: float) -> Iterator[Difference]:
        for output, scale in self.scale.items():
            yield Difference(
                output=output,
                maximum=max(v for key, v in self.maximum.items() if key[0] == output),
                scale=scale,
                tolerance=tolerance * max(1.0, scale),
            )


def prove(
    whole: Callable[[Sequences], Arrays],
    model: StepModel,
    sequences: Sequence[Sequences],
    *,
    seed: int,
    tolerance: float,
    exact: bool = True,
    original: str = "module",
) -> Proof:
    """Compares `whole`, the original on whole sequences, with `model`, by output.

    `whole` gives `[batch, time, *shape]` by output name. With `exact` the step model's own answers
    must be equal to the last bit in every way; without, it is only told whether they were.
    `original` is what the original is called in messages.

    Raises `ProofFailed` with the largest difference that is not allowed, saying what was compared.
    """
    rng = np.random.default_rng(seed)
    tally = _Tally()
    for each in sequences:
        expected = whole(each)
        answers = list(_answers(model, each, rng))
        first_way, first = answers[0]
        if exact:
            _check_equal(first_way, first, answers[1:])
        for name, value in expected.items():
            if not np.isfinite(value).all():
                raise ProofFailed(f"the {original}'s own output {name!r} is not finite")
            tally.scale[name] = max(tally.scale.get(name, 0.0), float(np.abs(value).max(initial=0)))
            for way, answer in answers:
                difference = np.abs(answer.outputs[name].astype(float) - value)
                if not np.isfinite(difference).all():
                    raise ProofFailed(f"the step model's output {name!r} is not finite")
                tally.add(
                    name,
                    each.source,
                    way,
                    maximum=float(difference.max(initial=0)),
                    exact=_equal(first, answer),
                )
    differences = tuple(tally.differences(tolerance))
    for found in differences:
        if found.maximum > found.tolerance:
            way = max(
                (each for each in tally.comparisons() if each.output == found.output),
                key=lambda each: each.maximum,
            ).way
            raise ProofFailed(
                f"output {found.output!r} of the step model differs from the {original}'s by "
                f"{found.maximum:.3g} ({way}); allowed are {found.tolerance:.3g}: {_MIXES}"
            )
    return Proof(
        differences=differences,
        comparisons=tally.comparisons(),
        elements=sum(each.elements.shape[0] * each.elements.shape[1] for each in sequences),
        seed=seed,
    )


def _answers(
    model: StepModel, sequences: Sequences, rng: np.random.Generator
) -> Iterator[tuple[str, Answer]]:
    """The same sequences, cut up and put together in every way that the model can be asked."""
    x, contexts, spec = sequences.elements, sequences.contexts, model.spec
    batch, time = x.shape[:2]
    singles = [[1] * time] * batch
    if not spec.time_axis:
        yield "one element at a time", model.run(x, singles, contexts)
        if spec.batched:
            yield "each row alone", model.run_alone(x, singles, contexts)
        return
    yield "whole", model.run(x, [[time]] * batch, contexts)
    yield "one element at a time", model.run(x, singles, contexts)
    yield "in random chunks", model.run(x, [_cut(time, min(4, time), rng)] * batch, contexts)
    if not spec.batched:
        return
    cuts = [_cut(time, min(5, time), rng) for _ in range(batch)]
    if spec.lengths is not None:
        yield "in ragged batches", model.run(x, cuts, contexts)
    yield "each row alone", model.run_alone(x, cuts, contexts)


def _cut(time: int, parts: int, rng: np.random.Generator) -> Sequence[int]:
    """`parts` random lengths of at least 1 that add up to `time`."""
    inner = np.sort(rng.choice(np.arange(1, time), parts - 1, replace=False))
    return [int(length) for length in np.diff([0, *inner, time])]


def _equal(one: Answer, two: Answer) -> bool:
    return all(
        np.array_equal(value, others[name], equal_nan=True)
        for values, others in ((one.outputs, two.outputs), (one.states, two.states))
        for name, value in values.items()
    )


def _check_equal(way: str, answer: Answer, others: Sequence[tuple[str, Answer]]) -> None:
    """Raises `ProofFailed` with the largest difference of another way from `way`, if any."""
    worst, message, rounding = 0.0, "", 0.0
    for other_way, other in others:
        for kind, one, two in (
            ("output", answer.outputs, other.outputs),
            ("state", answer.states, other.states),
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
                    f"model is given {way} and {other_way}"
                )
    if message:
        raise ProofFailed(f"{message}: {_ROUNDS if worst <= rounding else _MIXES}")
