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
from math import prod

import numpy as np

from elman_export.errors import ExportError, ProofFailed
from elman_export.proof.stepmodel import Answer, Arrays, RuntimeFailed, StepModel

TOLERANCE = 1e-4
"""Allowed difference from the original, times the scale of its output."""

_FLOOR = 1e-6
"""What is always allowed: rounding of values around 1 on the way to smaller ones."""

_ROUNDING = 1e-5

PADDED = "padded"
"""The source of sequences with elements that people pad with."""

_MIXES = (
    "the {original} mixes time steps or rows outside of its recurrent layers, or keeps a state "
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
    """Where they come from, for people: `random`, `padded` or `examples`."""
    contexts: Arrays = field(default_factory=dict)
    """`[batch, *shape]` by context name."""


@dataclass(frozen=True, slots=True)
class Case:
    """Sequences, and what the original says to them as a whole."""

    sequences: Sequences
    expected: Arrays
    """`[batch, time, *shape]` by output name; what is masked is not compared."""


def answered(sequences: Sequence[Sequences], answer: Callable[[Sequences], Arrays]) -> list[Case]:
    """What the original says to each.

    Padded ones are left out where it says nothing finite: a network that divides by the size of
    its elements is none of zeros. Raises `RuntimeFailed` where it can't run at all, as on ids that
    it has no row for.
    """
    found = []
    for each in sequences:
        try:
            found.append(Case(each, answer(each)))
        except RuntimeFailed as error:
            raise RuntimeFailed(
                f"the original fails on {each.source} sequences of the input as it is described; "
                f"are its size and shape right? {error}"
            ) from error
    return [
        case
        for case in found
        if case.sequences.source != PADDED or all(map(_is_finite, case.expected.values()))
    ]


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
    """The median size of the values in the original's output, zeros aside: a few that are huge, as
    masks are, or an output of small values only must not hide a difference."""
    tolerance: float | None
    """What `maximum` may be at most; None where it may be anything."""


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
        self.sizes: dict[str, list[np.ndarray]] = {}

    def add(self, output: str, input: str, way: str, *, maximum: float, exact: bool) -> None:
        key = (output, input, way)
        self.maximum[key] = max(self.maximum.get(key, 0.0), maximum)
        self.exact[key] = self.exact.get(key, True) and exact

    def see(self, output: str, values: np.ndarray) -> None:
        """Remembers how large the original's values are."""
        sizes = np.abs(values.astype(float))
        self.sizes.setdefault(output, []).append(sizes[sizes > 0])

    def comparisons(self) -> tuple[Comparison, ...]:
        return tuple(
            Comparison(
                output=key[0], input=key[1], way=key[2], maximum=maximum, exact=self.exact[key]
            )
            for key, maximum in sorted(self.maximum.items(), key=lambda item: item[0][:2])
        )

    def differences(self, tolerance: float | None) -> Iterator[Difference]:
        for output, sizes in self.sizes.items():
            scale = float(np.median(np.concatenate(sizes))) if any(map(len, sizes)) else 0.0
            yield Difference(
                output=output,
                maximum=max(v for key, v in self.maximum.items() if key[0] == output),
                scale=scale,
                tolerance=max(_FLOOR, tolerance * scale) if tolerance else tolerance,
            )


def prove(
    model: StepModel,
    cases: Sequence[Case],
    *,
    seed: int,
    tolerance: float | None,
    exact: bool = True,
    original: str = "module",
) -> Proof:
    """Compares `model` with what its original said, by output.

    With `exact` the step model's own answers must be equal to the last bit in every way; without,
    it is only told whether they were. Without a `tolerance` differences are only told as well.
    `original` is what the original is called in messages.

    Raises `ProofFailed` with the largest difference that is not allowed, saying what was compared.
    """
    if tolerance is not None and not 0 <= tolerance < np.inf:
        raise ExportError(f"tolerance is {tolerance}; allowed is a number from 0 up")
    rng = np.random.default_rng(seed)
    tally = _Tally()
    for case in cases:
        each = case.sequences
        answers = list(_answers(model, each, rng))
        first_way, first = answers[0]
        if exact:
            _check_equal(first_way, first, answers[1:], original)
        for name, value in case.expected.items():
            if not _is_finite(value):
                raise ProofFailed(f"the {original}'s own output {name!r} is not finite")
            tally.see(name, np.ma.compressed(value))
            for way, answer in answers:
                apart = np.abs(answer.outputs[name].astype(float) - value)
                difference = np.asarray(np.ma.filled(apart, 0.0))
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
        if found.tolerance is not None and not found.maximum <= found.tolerance:
            worst = max(
                (each for each in tally.comparisons() if each.output == found.output),
                key=lambda each: each.maximum,
            )
            raise ProofFailed(
                f"output {found.output!r} of the step model differs from the {original}'s by "
                f"{found.maximum:.3g} ({worst.input} sequences, {worst.way}); allowed are "
                f"{found.tolerance:.3g}: "
                f"{_MIXES.format(original=original)}"
            )
    return Proof(
        differences=differences,
        comparisons=tally.comparisons(),
        elements=sum(prod(case.sequences.elements.shape[:2]) for case in cases),
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


def _is_finite(value: np.ndarray) -> bool:
    return bool(np.ma.filled(np.isfinite(value), True).all())


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


def _check_equal(
    way: str, answer: Answer, others: Sequence[tuple[str, Answer]], original: str
) -> None:
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
        raise ProofFailed(
            f"{message}: {_ROUNDS if worst <= rounding else _MIXES.format(original=original)}"
        )
