"""An original of a new kind needs its answers and its candidates, and nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from elman_export import pipeline
from elman_export.candidate import Candidate
from elman_export.errors import CandidateFailed, ExportError, ProofFailed
from elman_export.options import Options
from elman_export.pipeline import Original
from elman_export.proof.proof import Sequences
from elman_export.proof.stepmodel import Arrays
from elman_server.model.spec import ContextSpec, InputSpec
from tests.oracle import Oracle
from tests.stepmodels import leaky


def right() -> Candidate:
    model, spec = leaky(width=2)
    return Candidate(model=model, spec=spec)


def wrong() -> Candidate:
    model, spec = leaky(width=2, mixes_rows=True)
    return Candidate(model=model, spec=spec)


def none() -> Candidate:
    raise CandidateFailed("not in this way")


@dataclass(frozen=True, slots=True, kw_only=True)
class Numpy(Original):
    """A leaky sum in numpy."""

    noun: ClassVar[str] = "function"
    exact: ClassVar[bool] = True

    ways: Sequence[Callable[[], Candidate]]
    input: InputSpec = right().spec.input
    contexts: Sequence[ContextSpec] = field(default=())

    def answer(self, sequences: Sequences) -> Arrays:
        h, steps = 0.0, []
        for x in np.moveaxis(sequences.elements, 1, 0):
            h = 0.5 * h + x
            steps.append(h)
        return {"y": np.stack(steps, 1)}

    def candidates(self) -> Sequence[Callable[[], Candidate]]:
        return self.ways


@pytest.mark.parametrize("ways", [[right], [none, right], [wrong, right]])
def test_the_first_candidate_that_is_proved_is_written(
    ways: list[Callable[[], Candidate]], tmp_path: Path
) -> None:
    options = Options(examples=np.ones((1, 3, 2)), expected={"y": np.repeat([1, 1.5, 1.75], 2)})
    report = pipeline.export(Numpy(ways=ways), tmp_path / "m.onnx", options)
    assert report.proof.exact
    assert {each.input for each in report.proof.comparisons} == {"random", "padded", "examples"}
    (*_, last) = Oracle(report.path).run(np.ones((3, 2), np.float32))
    assert last["y"].tolist() == [1.75, 1.75]


@pytest.mark.parametrize(
    ("ways", "error", "message"),
    [
        ([none, wrong], CandidateFailed, "not in this way"),
        ([wrong, none], ProofFailed, "the function mixes time steps or rows"),
    ],
)
def test_the_first_failure_is_raised_if_no_candidate_is_proved(
    ways: list[Callable[[], Candidate]], error: type[ExportError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        pipeline.export(Numpy(ways=ways), tmp_path / "m.onnx", Options())
    assert not any(tmp_path.iterdir())
