"""Steps that take long, and numbers that make them take long: only who asks for it waits.

pytest -s tests/abuse/test_time.py
"""

from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from elman.v1 import inference_pb2 as pb
from tests.abuse import models
from tests.abuse.comparison import Comparison
from tests.abuse.http2 import STREAM, Call, Connection, packed
from tests.abuse.innocent import Task
from tests.abuse.readings import at_rest, check_nothing_left
from tests.serverprocess import ServerProcess

TWO_SECONDS = 2e6
"""Turns that take about so long."""
FOR_EVER = 1e15
DENORMAL = 1e-40
TINY = 1e-37
"""A number that is not denormal, whose products with weights are."""
SESSIONS = 256


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models.save(models.turning(), folder, "turning")
    models.save(models.linear(128), folder, "linear")
    models.save(models.lstm(128, 64), folder, "lstm")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[ServerProcess]:
    # On a busy machine, a step of two seconds takes longer than the default time limit.
    with ServerProcess(str(repository), "--demo", "--step-timeout", "30") as server:
        yield server


def _push(model: str, element: float) -> bytes:
    return packed(
        pb.StreamRequest(
            model=model,
            opens=[pb.Open(session=0)],
            push=pb.Push(sessions=[0], raw=np.float32(element).tobytes()),
        )
    )


@pytest.mark.parametrize("element", [FOR_EVER, pytest.param(-FOR_EVER, marks=pytest.mark.slow)])
def test_a_step_without_an_end_ends_its_own_session_alone(repository: Path, element: float) -> None:
    with ServerProcess(str(repository), "--demo", "--step-timeout", "1") as server:
        before = at_rest(server)

        def bout() -> str:
            with Connection(server.target) as connection:
                call = connection.open(STREAM, first=_push("turning", element))
                assert connection.pump(20, until=lambda: _answered(call))
                responses = map(pb.StreamResponse.FromString, call.messages())
                reasons = [closed.reason for response in responses for closed in response.closed]
                assert reasons == [pb.CLOSE_REASON_STEP_FAILED]
            return "a step without an end"

        Comparison(target=server.target, longest=1.0).run(bout)
        check_nothing_left(server, before, "a step took too long")
        assert server.terminate(15) == 0


def _answered(call: Call) -> bool:
    responses = map(pb.StreamResponse.FromString, call.messages())
    return any(response.predictions or response.closed for response in responses)


def test_nobody_waits_for_a_step_whose_data_says_how_long_it_takes(server: ServerProcess) -> None:
    before = at_rest(server)

    def bout() -> str:
        with Connection(server.target) as connection:
            call = connection.open(STREAM, first=_push("turning", TWO_SECONDS))
            assert connection.pump(60, until=lambda: _answered(call))
        return "a step of some seconds"

    Comparison(target=server.target, longest=1.0).run(bout)
    check_nothing_left(server, before)


def _load(
    connection: Connection, model: str, width: int, out: int, value: float, seconds: float
) -> int:
    """Keeps many sessions of a model busy with one number, `width` times an element; how often
    each was answered with `out` numbers."""
    outputs = [pb.OutputRequest(name="y")]
    opens = [pb.Open(session=number, outputs=outputs) for number in range(SESSIONS)]
    call = connection.open(STREAM, first=packed(pb.StreamRequest(model=model, opens=opens)))
    elements = np.full(SESSIONS * width, value, np.float32).tobytes()
    push = packed(pb.StreamRequest(push=pb.Push(sessions=range(SESSIONS), raw=elements)))
    end = monotonic() + seconds
    rounds = 0
    while monotonic() < end:
        connection.send(call, push)
        rounds += 1
        size = rounds * SESSIONS * out * 4
        assert connection.pump(60, until=lambda size=size: len(call.received) >= size)  # type: ignore[misc]
    return rounds


@pytest.mark.parametrize("value", [DENORMAL, pytest.param(TINY, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("model", "width"),
    [("linear", 128), ("lstm", 64)],
)
def test_denormal_numbers_cost_no_more_than_others(
    server: ServerProcess, repository: Path, model: str, width: int, value: float
) -> None:
    """Beside as many sessions that push ordinary numbers."""
    before = at_rest(server)
    rng = np.random.default_rng(3)
    features = rng.normal(size=(7, width)).astype(np.float32).tolist()
    cost: dict[float, float] = {}

    def load(number: float) -> str:
        spent, steps = _step_seconds(server, model)
        with Connection(server.target) as connection:
            rounds = _load(connection, model, width, 128, number, 0.7)
        total, more = _step_seconds(server, model)
        cost[number] = (total - spent) / (more - steps)
        return f"{model}, {number}: {rounds} rounds, {1e3 * cost[number]:.2f} ms a step"

    comparison = Comparison(
        target=server.target,
        task=Task(model=model, output="y", features=tuple(map(tuple, features))),
        path=repository / model / "1/model.onnx",
        load=lambda: load(1.0),
    )
    comparison.run(lambda: load(value))
    assert cost[value] < 3 * cost[1.0]
    check_nothing_left(server, before)


def _step_seconds(server: ServerProcess, model: str) -> tuple[float, float]:
    """What all steps took together, and how many there were."""
    name = "elman_step_duration_seconds"
    return server.metric(f"{name}_sum", model=model), server.metric(f"{name}_count", model=model)


def test_nobody_waits_for_what_a_caller_had_pushed_when_it_went(server: ServerProcess) -> None:
    """A window of each of many sessions, an element at a time."""
    before = at_rest(server)
    turns = np.full(SESSIONS, 10_000, np.float32).tobytes()
    opens = [pb.Open(session=number) for number in range(SESSIONS)]
    push = packed(pb.StreamRequest(push=pb.Push(sessions=range(SESSIONS), raw=turns)))

    def bout() -> str:
        pushed = 0
        with Connection(server.target, window=0) as connection:
            first = packed(pb.StreamRequest(model="turning", opens=opens))
            call = connection.open(STREAM, first=first)
            while pushed < 1000 and connection.send(call, push, seconds=0.3):
                pushed += 1
            # As many of them as the server reads.
            connection.read(1.0)
        return f"{pushed} elements of each of {SESSIONS} sessions"

    Comparison(target=server.target, longest=1.0).run(bout)
    check_nothing_left(server, before)
