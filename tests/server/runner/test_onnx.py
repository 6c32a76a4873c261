"""The runner keeps each session's state in its slot, and computes it as if it were alone."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from elman_server.engine.jobs.batch import Batch
from elman_server.engine.sessions.table import SessionTable
from elman_server.model import modelfile
from elman_server.runner.model import StepModel
from elman_server.runner.onnx import OnnxRunner
from tests.oracle import Oracle
from tests.server.runner.oddmodels import one_row_out, one_state_out
from tests.stepmodels import ALPHABET, Shape, leaky, lstm, save

pytestmark = pytest.mark.usefixtures("place")

HIDDEN = 16


def load(path: Path) -> StepModel:
    return StepModel(modelfile.read(path), threads=1, providers=("CPUExecutionProvider",))


def batch(
    rows: Sequence[tuple[int, NDArray[np.generic]]], fresh: Sequence[int], *outputs: str
) -> Batch:
    """Rows as slots and their elements."""
    counts = [len(elements) for _, elements in rows]
    return Batch(
        table=SessionTable(),
        slots=np.array([slot for slot, _ in rows]),
        counts=np.array(counts),
        chunk=max(counts),
        elements=np.concatenate([elements for _, elements in rows]),
        times=np.zeros(sum(counts)),
        parts=[],
        fresh=list(fresh),
        outputs=frozenset(outputs),
    )


def encoded(text: str) -> NDArray[np.int64]:
    return np.array([ALPHABET.index(letter) for letter in text], np.int64)


def alone(path: Path, text: str) -> list[bytes]:
    return [row["next"].tobytes() for row in Oracle(path).run(text)]


@pytest.mark.parametrize(
    "shape",
    [
        Shape(),
        Shape(layers=2),
        Shape(lengths=False),
        Shape(time_axis=False, lengths=False),
        Shape(initial=tuple(np.linspace(-1, 1, HIDDEN).tolist())),
    ],
    ids=["ragged", "two layers", "equal", "single", "initial state"],
)
def test_any_schedule_equals_solo_runs_to_the_bit(shape: Shape, tmp_path: Path) -> None:
    path = save(*lstm(shape), tmp_path / "model.onnx")
    runner = OnnxRunner(load(path))
    rng = random.Random(1)
    texts = ["".join(rng.choices(ALPHABET, k=rng.randint(1, 30))) for _ in range(40)]
    slots = rng.sample(range(300), len(texts))
    done = [0] * len(texts)
    found: list[list[bytes]] = [[] for _ in texts]
    while unfinished := [i for i, text in enumerate(texts) if done[i] < len(text)]:
        chosen = rng.sample(unfinished, rng.randint(1, len(unfinished)))
        chunk = rng.randint(1, 6) if shape.time_axis else 1
        if not shape.lengths:
            chunk = min([chunk, *(len(texts[i]) - done[i] for i in chosen)])
        parts = [texts[i][done[i] : done[i] + chunk] for i in chosen]
        if shape.lengths:
            parts = [part[: rng.randint(1, len(part))] for part in parts]
        outputs = runner.run(
            batch(
                [(slots[i], encoded(part)) for i, part in zip(chosen, parts, strict=True)],
                [row for row, i in enumerate(chosen) if done[i] == 0],
                "next",
            )
        )
        for row, (i, part) in enumerate(zip(chosen, parts, strict=True)):
            found[i] += [outputs["next"][row, step].tobytes() for step in range(len(part))]
            done[i] += len(part)
    assert found == [alone(path, text) for text in texts]


@pytest.fixture
def leaky_runner(tmp_path: Path) -> OnnxRunner:
    return OnnxRunner(load(save(*leaky(), tmp_path / "leaky.onnx")))


def step(runner: OnnxRunner, fresh: Sequence[int], **rows: float) -> list[float]:
    """One element for each slot: `step(runner, [], s3=1.0)`."""
    pairs = [(int(slot[1:]), np.array([[x]], np.float32)) for slot, x in rows.items()]
    result: list[float] = runner.run(batch(pairs, fresh, "y"))["y"].ravel().tolist()
    return result


def test_each_slot_keeps_its_own_state(leaky_runner: OnnxRunner) -> None:
    assert step(leaky_runner, [0, 1], s0=8, s1=80) == [8, 80]
    assert step(leaky_runner, [], s1=0, s0=0) == [40, 4]
    assert step(leaky_runner, [], s0=0) == [2]
    assert step(leaky_runner, [], s0=0, s1=0) == [1, 20]


def test_a_fresh_row_knows_nothing_of_the_slots_last_user(leaky_runner: OnnxRunner) -> None:
    step(leaky_runner, [0], s0=1000)
    assert step(leaky_runner, [0], s0=1) == [1]


def test_fresh_rows_and_others_share_a_step(leaky_runner: OnnxRunner) -> None:
    step(leaky_runner, [0, 1], s0=8, s1=8)
    assert step(leaky_runner, [1], s0=0, s1=0, s2=0)[:2] == [4, 0]


def test_state_survives_growth_to_thousands_of_slots(leaky_runner: OnnxRunner) -> None:
    before = leaky_runner.state_nbytes
    slots = 5000
    numbers = np.arange(slots, dtype=np.float32)
    for start in range(0, slots, 100):
        rows = [(s, numbers[s : s + 1, None]) for s in range(start, start + 100)]
        leaky_runner.run(batch(rows, range(100), "y"))
    rows = [(slot, np.zeros((1, 1), np.float32)) for slot in reversed(range(slots))]
    outputs = leaky_runner.run(batch(rows, [], "y"))["y"]
    assert outputs.ravel().tolist() == (numbers[::-1] / 2).tolist()
    assert before < leaky_runner.state_nbytes < 3 * slots * 4


def test_only_the_wanted_outputs_are_computed(tmp_path: Path) -> None:
    runner = OnnxRunner(load(save(*lstm(Shape()), tmp_path / "model.onnx")))
    assert runner.run(batch([(0, encoded("ab"))], [0])) == {}
    assert runner.run(batch([(0, encoded("ab"))], [], "next")).keys() == {"next"}


def test_a_session_goes_on_after_steps_whose_outputs_nobody_wanted(tmp_path: Path) -> None:
    path = save(*lstm(Shape()), tmp_path / "model.onnx")
    runner = OnnxRunner(load(path))
    runner.run(batch([(0, encoded("abc"))], [0]))
    outputs = runner.run(batch([(0, encoded("de"))], [], "next"))
    assert [row.tobytes() for row in outputs["next"][0]] == alone(path, "abcde")[3:]


def test_fresh_rows_begin_from_the_initial_state_of_the_spec(tmp_path: Path) -> None:
    initial = tuple(np.linspace(-1, 1, HIDDEN).tolist())
    path = save(*lstm(Shape(initial=initial)), tmp_path / "initial.onnx")
    zeros = save(*lstm(Shape()), tmp_path / "zeros.onnx")
    outputs = OnnxRunner(load(path)).run(batch([(7, encoded("a"))], [0], "next"))
    assert outputs["next"][0, 0].tobytes() == alone(path, "a")[0]
    assert alone(path, "a") != alone(zeros, "a")


def test_outputs_that_do_not_fit_the_batch_fail_the_step(tmp_path: Path) -> None:
    runner = OnnxRunner(load(save(*one_row_out(), tmp_path / "model.onnx")))
    rows = [(slot, np.zeros((1, 3), np.float32)) for slot in range(2)]
    assert runner.run(batch(rows[:1], [0], "y"))["y"].shape == (1, 1, 3)
    with pytest.raises(RuntimeError, match="invalid dimensions for output: y"):
        runner.run(batch(rows, [0, 1], "y"))


def test_states_that_do_not_fit_the_batch_fail_the_step_and_change_nothing(tmp_path: Path) -> None:
    runner = OnnxRunner(load(save(*one_state_out(), tmp_path / "model.onnx")))
    rows = [(slot, np.full((1, 3), 8, np.float32)) for slot in range(2)]
    for row in rows:
        runner.run(batch([row], [0], "y"))
    with pytest.raises(RuntimeError, match="invalid dimensions for output: h_next"):
        runner.run(batch(rows, [], "y"))
    assert runner.run(batch(rows[:1], [], "y"))["y"].tolist() == [[[12, 12, 12]]]
