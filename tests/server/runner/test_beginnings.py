"""A session begins from its contexts as it would alone, and nothing of them stays in its slot."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from elman_server.engine.jobs.init import InitJob
from elman_server.runner.onnx import OnnxRunner
from elman_server.runner.probe import probe
from tests.oracle import Oracle
from tests.server.runner.oddmodels import beginners_that_mix
from tests.server.runner.test_onnx import batch, encoded, load
from tests.stepmodels import ALPHABET, STYLES, Shape, caption, save_conditioned, tilted

pytestmark = pytest.mark.usefixtures("place")

Contexts = dict[str, NDArray[Any]]


def beginning(rows: Mapping[int, Contexts]) -> InitJob:
    """Slots with their contexts."""
    return InitJob(slots=list(rows), contexts=list(rows.values()))


def captions(count: int) -> list[Contexts]:
    rng = np.random.default_rng(3)
    return [
        {
            "image": rng.normal(size=12).astype(np.float32),
            "style": np.array(number % STYLES),
            "gain": rng.normal(size=8).astype(np.float32),
        }
        for number in range(count)
    ]


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize(
    "shape",
    [Shape(), Shape(layers=2), Shape(lengths=False), Shape(time_axis=False, lengths=False)],
    ids=["ragged", "two layers", "equal", "single"],
)
def test_any_schedule_equals_solo_runs_to_the_bit(
    shape: Shape, one_by_one: bool, tmp_path: Path
) -> None:
    path = save_conditioned(caption(shape), tmp_path / "model.onnx")
    model = load(path)
    found = probe(model, max_batch_size=64, max_chunk=8)
    assert found.dependent_rows == ""
    together = found.beginning.together and not one_by_one
    runner = OnnxRunner(model, begins_together=together)
    rng = random.Random(1)
    contexts = captions(40)
    texts = ["".join(rng.choices(ALPHABET, k=rng.randint(1, 12))) for _ in contexts]
    slots = rng.sample(range(300), len(texts))
    order = rng.sample(range(len(texts)), len(texts))
    for start in range(0, len(order), 9):
        runner.initialize(beginning({slots[i]: contexts[i] for i in order[start : start + 9]}))
    answers: list[list[bytes]] = [[] for _ in texts]
    while unfinished := [i for i, text in enumerate(texts) if len(answers[i]) < len(text)]:
        chosen = rng.sample(unfinished, rng.randint(1, len(unfinished)))
        outputs = runner.run(
            batch([(slots[i], encoded(texts[i][len(answers[i])])) for i in chosen], [], "next")
        )
        for row, i in enumerate(chosen):
            answers[i].append(outputs["next"][row, 0].tobytes())
    oracle = Oracle(path)
    assert answers == [
        [row["next"].tobytes() for row in oracle.run(text, given)]
        for text, given in zip(texts, contexts, strict=True)
    ]


@pytest.fixture
def runner(tmp_path: Path) -> OnnxRunner:
    """`h` begins as `2 start`; `y = h = 0.5 h + x + tilt`."""
    return OnnxRunner(load(save_conditioned(tilted(), tmp_path / "tilted.onnx")))


def given(start: float, tilt: float) -> Contexts:
    return {"start": np.array([start], np.float32), "tilt": np.array([tilt], np.float32)}


def step(runner: OnnxRunner, **rows: float) -> list[float]:
    """One element for each slot: `step(runner, s3=1.0)`."""
    pairs = [(int(slot[1:]), np.array([[x]], np.float32)) for slot, x in rows.items()]
    result: list[float] = runner.run(batch(pairs, [], "y"))["y"].ravel().tolist()
    return result


def test_each_slot_keeps_its_own_state_and_contexts(runner: OnnxRunner) -> None:
    runner.initialize(beginning({0: given(8, 1), 1: given(80, 10)}))
    assert step(runner, s0=0, s1=0) == [9, 90]
    assert step(runner, s1=0, s0=1) == [55, 6.5]


def test_nothing_of_a_slots_last_user_reaches_the_next(runner: OnnxRunner) -> None:
    runner.initialize(beginning({0: given(1000, 1000), 1: given(2, 2)}))
    step(runner, s0=0, s1=0)
    runner.initialize(beginning({0: given(1, 0.5)}))
    assert step(runner, s0=0, s1=0) == [1.5, 4]


def test_a_beginning_that_is_asked_for_again_begins_anew(runner: OnnxRunner) -> None:
    for _ in range(2):
        runner.initialize(beginning({0: given(8, 1)}))
        assert step(runner, s0=0) == [9]


def test_contexts_survive_growth_to_thousands_of_slots(runner: OnnxRunner) -> None:
    before = runner.state_nbytes
    # A float of state and a float of context for each of the slots that there are at first.
    assert before % 8 == 0
    slots = 5000
    for start in range(0, slots, 100):
        runner.initialize(beginning({s: given(s, 2 * s) for s in range(start, start + 100)}))
    rows = [(slot, np.zeros((1, 1), np.float32)) for slot in reversed(range(slots))]
    outputs = runner.run(batch(rows, [], "y"))["y"]
    assert outputs.ravel().tolist() == [3.0 * slot for slot in reversed(range(slots))]
    assert before < runner.state_nbytes < 3 * slots * 8


def test_rows_that_would_affect_one_another_begin_alone(tmp_path: Path) -> None:
    model = load(save_conditioned(beginners_that_mix(), tmp_path / "model.onnx"))
    found = probe(model, max_batch_size=8, max_chunk=8)
    runner = OnnxRunner(model, begins_together=found.beginning.together)
    runner.initialize(beginning({slot: given(slot, 0) for slot in range(1, 6)}))
    # `start` three times, of its own row.
    assert step(runner, s1=0, s2=0, s3=0, s4=0, s5=0) == [1.5, 3, 4.5, 6, 7.5]


def test_contexts_that_the_network_does_not_know_fail_the_beginning_and_nothing_else(
    tmp_path: Path,
) -> None:
    path = save_conditioned(caption(), tmp_path / "model.onnx")
    runner = OnnxRunner(load(path))
    good, bad = captions(2)
    bad["style"] = np.array(STYLES)
    runner.initialize(beginning({0: good}))
    with pytest.raises(Exception, match="out of data bounds"):
        runner.initialize(beginning({1: good, 2: bad}))
    assert runner.run(batch([(0, encoded("a"))], [], "next"))["next"].tobytes() == expected(
        path, "a", good
    )


def test_a_step_that_fails_changes_no_state(tmp_path: Path) -> None:
    path = save_conditioned(caption(), tmp_path / "model.onnx")
    runner = OnnxRunner(load(path))
    [good] = captions(1)
    runner.initialize(beginning({0: good, 1: good}))
    with pytest.raises(Exception, match="out of data bounds"):
        runner.run(batch([(0, encoded("a")), (1, np.array([99]))], [], "next"))
    assert runner.run(batch([(0, encoded("a"))], [], "next"))["next"].tobytes() == expected(
        path, "a", good
    )


def expected(path: Path, text: Sequence[str], contexts: Contexts) -> bytes:
    return b"".join(row["next"].tobytes() for row in Oracle(path).run(text, contexts))
