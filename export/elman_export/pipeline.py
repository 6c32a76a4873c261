"""The way of every export: reference answers, candidates, proof, quantization if requested, file.

A new kind of original is a module in `elman_export.original` with an `Original`, and a line in the
list of kinds in `elman_export.exporter` or `elman_export.original.graphfile`.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, Protocol

from elman_export import writer
from elman_export.candidate import Candidate
from elman_export.errors import CandidateFailed, ExportError, ProofFailed, explained, fitting
from elman_export.options import Options
from elman_export.proof import examples
from elman_export.proof.median import check_median
from elman_export.proof.proof import TOLERANCE, Case, Proof, Sequences, answered, prove
from elman_export.proof.stepmodel import Arrays, RuntimeFailed, StepModel
from elman_export.proof.trials import trials
from elman_export.writer import Report
from elman_server.model.spec import ContextSpec, InputSpec


class Original(Protocol):
    """A trained model in the caller's form, and the candidates made from the model."""

    noun: ClassVar[str]
    """The original's name in messages: `module` or `graph`."""
    exact: ClassVar[bool]
    """Whether a candidate must have equal results, to the last bit, for all cuts of a sequence."""
    stepwise: ClassVar[bool] = False
    """Whether the original takes a single sequence, element by element. Then trials are small, and
    examples may be a single sequence."""

    input: InputSpec
    contexts: Sequence[ContextSpec]

    def answer(self, sequences: Sequences) -> Arrays:
        """Returns the outputs for whole sequences, `[batch, time, *shape]` by name: the reference
        for candidates."""
        ...

    def candidates(self) -> Sequence[Callable[[], Candidate]]:
        """Returns ways to build a step model, preferred first. Each raises `CandidateFailed` where
        the next should be tried."""
        ...

    def tolerance(self, cases: Sequence[Case]) -> float:
        """Returns the default tolerance for these answers."""
        return TOLERANCE

    def check(self, model: StepModel, cases: Sequence[Case], seed: int) -> None:
        """Compares a candidate in further ways, before the proof. Raises `ProofFailed`."""
        return

    def explain(self) -> str:
        """Returns the reason for a failed proof; empty if unknown."""
        return ""


def export(original: Original, path: str | os.PathLike[str], options: Options) -> Report:
    """Writes the first candidate that is proved equal to `original` to `path`.

    Raises `ProofFailed` if all candidates differ, and `ExportError` for invalid examples or
    expected outputs. On an error, nothing is written.
    """
    if options.expected and options.examples is None:
        raise ExportError("expected outputs need the examples that they are for")
    sequences = trials(
        original.input,
        original.contexts,
        examples=options.examples,
        seed=options.seed,
        stepwise=original.stepwise,
    )
    cases = answered(sequences, original.answer)
    expected: Arrays = {}
    if options.expected:
        expected = examples.fit_expected(options.expected, cases[-1].expected)
    candidate, proof = _proved(original, cases, options)
    if expected:
        tolerance = _tolerance(original, cases, options)
        compared = examples.compare(cases[-1].expected, expected, tolerance)
        proof = replace(proof, comparisons=(*proof.comparisons, *compared))
    notes: list[str] = []
    if options.quantized:
        candidate, proof = _quantized(candidate, proof, original, cases, notes)
    return replace(writer.write(candidate, proof, path), notes=tuple(notes))


def _proved(original: Original, cases: Sequence[Case], options: Options) -> tuple[Candidate, Proof]:
    """Returns the first candidate with a proof. Raises the first candidate's error if all fail."""
    failure: ExportError | None = None
    for build in original.candidates():
        try:
            with fitting():
                candidate = build()
            return candidate, prove_candidate(original, candidate, cases, options)
        except (CandidateFailed, ProofFailed, RuntimeFailed) as error:
            failure = failure or error
    assert failure is not None
    raise failure


def prove_candidate(
    original: Original, candidate: Candidate, cases: Sequence[Case], options: Options
) -> Proof:
    """Proves a candidate on the original's answers. Raises `ProofFailed`."""
    step = StepModel.of(candidate)
    tolerance = _tolerance(original, cases, options)
    with explained(original.explain):
        original.check(step, cases, options.seed)
        return prove(
            step,
            cases,
            seed=options.seed,
            tolerance=tolerance,
            exact=original.exact,
            original=original.noun,
        )


def _tolerance(original: Original, cases: Sequence[Case], options: Options) -> float:
    return original.tolerance(cases) if options.tolerance is None else options.tolerance


def _quantized(
    candidate: Candidate,
    proof: Proof,
    original: Original,
    cases: Sequence[Case],
    notes: list[str],
) -> tuple[Candidate, Proof]:
    """Returns the candidate with 8-bit weights, compared again on the same `cases`.

    If the proved candidate was equal to the last bit in all ways, so must be the quantized
    candidate. Raises `ProofFailed` otherwise, or for values far off. `notes` takes remarks.
    """
    from elman_export.quantization import quantize

    model, spec = quantize(candidate.model, candidate.spec, tell=notes.append)
    candidate = replace(candidate, model=model, spec=spec)
    step = StepModel.of(candidate)
    check_median(step, cases, original.noun)
    proof = prove(
        step,
        cases,
        seed=proof.seed,
        tolerance=None,
        exact=proof.exact,
        original=original.noun,
    )
    return candidate, proof
