"""What is read from a slot and put into another's, of another runner, goes on as if nothing had
happened."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from elman_server.engine.jobs.capture import CaptureJob
from elman_server.engine.jobs.restore import RestoreJob
from elman_server.engine.sessions.snapshot import Snapshot
from elman_server.runner.onnx import OnnxRunner
from tests.oracle import Oracle
from tests.server.runner.test_beginnings import beginning, captions
from tests.server.runner.test_onnx import alone, batch, encoded, load
from tests.stepmodels import ALPHABET, Shape, caption, leaky, lstm, save, save_conditioned

pytestmark = pytest.mark.usefixtures("place")


def read(runner: OnnxRunner, *slots: int) -> list[Snapshot]:
    tensors = runner.capture(CaptureJob(slots=list(slots)))
    return [
        Snapshot(position=0, tensors=tuple(array[row] for array in tensors))
        for row in range(len(slots))
    ]


def restore(runner: OnnxRunner, snapshots: dict[int, Snapshot]) -> None:
    runner.restore(RestoreJob(slots=list(snapshots), snapshots=list(snapshots.values())))


@pytest.mark.parametrize(
    "shape",
    [Shape(), Shape(layers=2), Shape(lengths=False), Shape(time_axis=False, lengths=False)],
    ids=["ragged", "two layers", "equal", "single"],
)
def test_sessions_that_move_between_runners_equal_solo_runs(shape: Shape, tmp_path: Path) -> None:
    path = save(*lstm(shape), tmp_path / "model.onnx")
    runners = [OnnxRunner(load(path)) for _ in range(3)]
    rng = random.Random(2)
    texts = ["".join(rng.choices(ALPHABET, k=12)) for _ in range(30)]
    places = {number: (rng.choice(runners), number) for number in range(len(texts))}
    found: list[list[bytes]] = [[] for _ in texts]
    for position in range(12):
        for runner in runners:
            here = {slot: number for number, (at, slot) in places.items() if at is runner}
            rows = [(slot, encoded(texts[number][position])) for slot, number in here.items()]
            fresh = range(len(rows)) if position == 0 else ()
            for number, answer in zip(
                here.values(), runner.run(batch(rows, fresh, "next"))["next"], strict=True
            ):
                found[number].append(answer.tobytes())
        moved = rng.sample(range(len(texts)), 20)
        slots = iter(rng.sample(range(100, 900), 20))
        taken = {
            number: read(runner, slot)[0]
            for number, (runner, slot) in places.items()
            if number in moved
        }
        for new in runners:
            going = [number for number in moved if runners.index(new) == number % 3]
            where = {number: next(slots) for number in going}
            restore(new, {where[number]: taken[number] for number in going})
            places |= {number: (new, slot) for number, slot in where.items()}
    assert found == [alone(path, text) for text in texts]


def test_what_steps_take_of_contexts_moves_along(tmp_path: Path) -> None:
    path = save_conditioned(caption(), tmp_path / "model.onnx")
    first, second = OnnxRunner(load(path)), OnnxRunner(load(path))
    given, text = captions(3), "abcd"
    first.initialize(beginning(dict(enumerate(given))))
    restore(second, dict(zip((70, 7, 700), read(first, 0, 1, 2), strict=True)))
    for slot, contexts in zip((70, 7, 700), given, strict=True):
        answers = second.run(batch([(slot, encoded(text))], [], "next"))["next"][0]
        expected = [row["next"].tobytes() for row in Oracle(path).run(text, contexts)]
        assert [answer.tobytes() for answer in answers] == expected


def test_a_slot_that_nothing_was_put_into_can_be_read(tmp_path: Path) -> None:
    path = save(*lstm(Shape()), tmp_path / "model.onnx")
    [snapshot] = read(OnnxRunner(load(path)), 5000)
    assert [array.shape for array in snapshot.tensors or ()] == [
        state.shape for state in load(path).spec.states
    ]


def test_a_model_without_states_has_nothing_to_move(tmp_path: Path) -> None:
    model, spec = leaky()
    del model.graph.output[1]
    model.graph.node[0].input[0] = "half"
    del model.graph.input[1]
    runner = OnnxRunner(load(save(model, replace(spec, states=()), tmp_path / "model.onnx")))
    [snapshot] = read(runner, 3)
    assert snapshot.tensors == ()
    restore(runner, {4: snapshot})
    rows = [(4, np.array([[8]], np.float32))]
    assert runner.run(batch(rows, [], "y"))["y"].item() == 8.25
