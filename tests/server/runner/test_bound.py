"""Steps whose memory stays bound give what steps with memory of their own give."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from elman_server.runner import onnx
from elman_server.runner.onnx import OnnxRunner
from tests.server.runner.oddmodels import branching, stacked
from tests.server.runner.test_onnx import alone, batch, encoded, leaky_runner, load, step
from tests.stepmodels import ALPHABET, Shape, lstm, save

__all__ = ["leaky_runner"]

pytestmark = pytest.mark.usefixtures("place")


def letters(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(ALPHABET), 8)) for _ in range(count)]


@pytest.mark.parametrize("rows", [1, 500], ids=["copied", "written in place"])
def test_predictions_stay_as_they_are_while_other_steps_run(rows: int, tmp_path: Path) -> None:
    path = save(*lstm(Shape()), tmp_path / "model.onnx")
    runner = OnnxRunner(load(path))
    first, second = letters(rows, 1), letters(rows, 2)
    found = [
        runner.run(batch([(i, encoded(text)) for i, text in enumerate(texts)], range(rows), "next"))
        for texts in (first, second)
    ]
    assert (found[0]["next"].nbytes > 256 * 1024) is (rows > 1)
    for outputs, texts in zip(found, (first, second), strict=True):
        for row in {0, rows // 2, rows - 1}:
            assert [each.tobytes() for each in outputs["next"][row]] == alone(path, texts[row])


def test_steps_of_more_shapes_than_stay_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "_MOST_SHAPES", 2)
    path = save(*lstm(Shape()), tmp_path / "model.onnx")
    runner = OnnxRunner(load(path))
    text = letters(1, 3)[0] * 4
    found: list[bytes] = []
    for size in (1, 2, 3, 1, 4, 5, 2, 1, 3, 3, 1):
        part = encoded(text[len(found) : len(found) + size])
        outputs = runner.run(batch([(5, part)], [] if found else [0], "next"))
        found += [each.tobytes() for each in outputs["next"][0]]
    assert found == alone(path, text[: len(found)])


def test_full_steps_and_ragged_ones_of_the_same_shape_take_turns(tmp_path: Path) -> None:
    path = save(*lstm(Shape()), tmp_path / "model.onnx")
    runner = OnnxRunner(load(path))
    texts = letters(2, 4)
    for parts in ([8, 8], [8, 3], [8, 8], [1, 8], [8, 8]):
        rows = [
            (i, encoded(text[:n])) for i, (text, n) in enumerate(zip(texts, parts, strict=True))
        ]
        outputs = runner.run(batch(rows, [0, 1], "next"))["next"]
        for row, (text, n) in enumerate(zip(texts, parts, strict=True)):
            assert [each.tobytes() for each in outputs[row, :n]] == alone(path, text[:n])


def test_states_whose_rows_do_not_lie_in_one_piece(tmp_path: Path) -> None:
    runner = OnnxRunner(load(save(*stacked(), tmp_path / "model.onnx")))
    assert step(runner, [0, 1], s7=8, s3=80) == [1024, 1240]
    assert step(runner, [], s3=0, s7=0) == [1120, 1012]
    assert step(runner, [1], s3=0, s200=8, s7=0) == [1060, 1024, 1006]


def test_outputs_of_a_subgraph_arrive(tmp_path: Path) -> None:
    runner = OnnxRunner(load(save(*branching(), tmp_path / "model.onnx")))
    assert step(runner, [0, 1], s0=8, s1=80) == [8, 80]
    assert step(runner, [], s1=0, s0=0) == [40, 4]


def test_elements_of_another_type_fail_the_step(leaky_runner: OnnxRunner) -> None:
    step(leaky_runner, [0], s0=8)
    other: NDArray[np.float64] = np.array([[0.5]])
    with pytest.raises(TypeError, match="float64"):
        leaky_runner.run(batch([(0, other)], [], "y"))
    assert step(leaky_runner, [], s0=0) == [4]
