"""The proof that a step model is the same network as the original.

The original runs on whole sequences. The step model runs on the same sequences whole, one element
at a time, in random chunks, in ragged batches with lengths, and with each row alone. All results
must agree with the original within a tolerance, because the kernels of two runtimes add in
different orders. If the step model's operators were chosen by this package, the results in all ways
must also be equal to the last bit, including final states.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import prod

import numpy as np

from elman_export.errors import ExportError, ProofFailed
from elman_export.proof.stepmodel import Answer, Arrays, RuntimeFailed, StepModel

TOLERANCE = 1e-4
"""Allowed difference from the original, times the scale of the original's output."""

_FLOOR = 1e-6
"""Difference that is always allowed: rounding of intermediate values around 1."""

_ROUNDING = 1e-5

PADDED = "padded"
"""Source of sequences with padding elements."""

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
    """Sequences for a proof."""

    elements: np.ndarray
    """`[batch, time, *shape]`."""
    source: str = "random"
    """Origin, for messages: `random`, `padded` or `examples`."""
    contexts: Arrays = field(default_factory=dict)
    """`[batch, *shape]` by context name."""


@dataclass(frozen=True, slots=True)
class Case:
    """Sequences, and the original's outputs for the whole sequences."""

    sequences: Sequences
    expected: Arrays
    """`[batch, time, *shape]` by output name. Masked values are not compared."""


def answered(sequences: Sequence[Sequences], answer: Callable[[Sequences], Arrays]) -> list[Case]:
    """Returns the original's outputs for each set of sequences.

    Padded sequences are left out if the outputs are not finite: a network that divides by the size
    of the elements has no result for zeros. Raises `RuntimeFailed` if the original can't run at
    all, for example on ids without a row in a table.
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
    """Difference of an output from the original's, for one way to run the step model."""

    output: str
    input: str
    """Source of the sequences."""
    way: str
    maximum: float
    """Largest absolute difference."""
    exact: bool
    """Whether outputs and states are equal, to the last bit, to the results of the first way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Difference of a step model's output from the original's, over all comparisons."""

    output: str
    maximum: float
    """Largest absolute difference."""
    scale: float
    """Median absolute value in the original's output, without zeros. A few huge values, as in
    masks, must not hide a difference. Nor must an output of small values only."""
    tolerance: float | None
    """Largest allowed `maximum`; `None` for no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Comparisons and results of a proof."""

    differences: tuple[Difference, ...]
    """By output, in the spec's order."""
    comparisons: tuple[Comparison, ...]
    """By output, then input, then way."""
    elements: int
    """Number of elements compared in each way."""
    seed: int

    @property
    def exact(self) -> bool:
        """Whether the step model's results are equal, to the last bit, in all ways."""
        return all(comparison.exact for comparison in self.comparisons)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


class _Tally:
    """Largest differences by output, input and way."""

    def __init__(self) -> None:
        self.maximum: dict[tuple[str, str, str], float] = {}
        self.exact: dict[tuple[str, str, str], bool] = {}
        self.sizes: dict[str, list[np.ndarray]] = {}

    def add(self, output: str, input: str, way: str, *, maximum: float, exact: bool) -> None:
        key = (output, input, way)
        self.maximum[key] = max(self.maximum.get(key, 0.0), maximum)
        self.exact[key] = self.exact.get(key, True) and exact

    def see(self, output: str, values: np.ndarray) -> None:
        """Records the magnitudes of the original's values."""
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
    """Compares `model` with the original's outputs.

    With `exact`, the step model's results must be equal to the last bit in all ways. Without
    `exact`, the proof only reports equality. Without a `tolerance`, the proof also only reports
    differences. `original` is the original's name in messages.

    Raises `ProofFailed` for the largest difference above the limit, with the sequences and the way;
    `ExportError` for an invalid tolerance.
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
    """Runs the sequences in every way that the model supports, with different cuts and batches."""
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
    """Returns `parts` random lengths of at least 1 with the sum `time`."""
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
    """Raises `ProofFailed` with the largest difference between `way` and the other ways, if any."""
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
