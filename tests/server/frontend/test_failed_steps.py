"""A step that fails in the runtime ends its sessions, and the server goes on."""

from collections.abc import Callable

import grpc
import pytest

from elman.v1 import inference_pb2 as pb
from elman_server.engine.jobs.batch import Batch
from elman_server.engine.jobs.init import InitJob
from elman_server.engine.jobs.interrupt import Interrupt
from elman_server.engine.jobs.runner import Runner
from elman_server.engine.outboxes.delivery import Outputs
from tests.server.fakes import Slots
from tests.server.frontend.harness import LocalServer, push
from tests.stepmodels import ALPHABET

MESSAGE = "the model failed in a step; the session's state is lost"


class UnluckyRunner:
    """Fails if a batch holds a certain letter."""

    def __init__(self, runner: Runner, letter: str) -> None:
        self._runner = runner
        self._element = ALPHABET.index(letter)

    def has_room(self, slots: Slots) -> bool:
        return self._runner.has_room(slots)

    def initialize(self, job: InitJob, interrupt: Interrupt | None = None) -> None:
        self._runner.initialize(job)

    def run(self, batch: Batch, interrupt: Interrupt | None = None) -> Outputs:
        if any((array == self._element).any() for array in batch.elements):
            raise RuntimeError("out of luck")
        return self._runner.run(batch)


@pytest.fixture
def unlucky(server: LocalServer) -> LocalServer:
    engine = server.engine()
    executor = engine._step_loop._executor
    executor._runner = UnluckyRunner(executor._runner, "x")
    return server


async def test_its_sessions_are_told_and_the_rpc_goes_on(
    unlucky: LocalServer, logits: Callable[[str], bytes]
) -> None:
    stream = unlucky.stream()
    await stream.send(opens=[1, 2], push=push({1: "ab", 2: "ab"}))
    await stream.answered(1, 2)
    await stream.answered(2, 2)
    await stream.push(1, "x")
    await stream.ended(1)
    assert stream.closed[1] == [
        pb.Closed(
            session=1,
            code=grpc.StatusCode.INTERNAL.value[0],
            reason=pb.CLOSE_REASON_STEP_FAILED,
            message=MESSAGE,
            position=2,
        )
    ]
    await stream.push(2, "c")
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK
    assert stream.values(2) == logits("abc")
    closed = "elman_sessions_closed_total"
    assert unlucky.metric(closed, reason="step_failed") == 1
    assert unlucky.metric(closed, reason="finished") == 1


async def test_sessions_of_the_same_step_go_on(
    unlucky: LocalServer, logits: Callable[[str], bytes]
) -> None:
    """However many share it, only those end on whose elements the runtime fails."""
    texts = {number: "ab" if number % 5 else "xb" for number in range(1, 16)}
    stream = unlucky.stream()
    await stream.send(opens=list(texts), push=push(texts))
    await stream.ended(5, 10, 15)
    await stream.send(push=push({number: "c" for number in texts if number % 5}))
    await stream.half_close()
    assert await stream.read_all() is grpc.StatusCode.OK
    for number in texts:
        [closed] = stream.closed[number]
        if number % 5:
            assert closed.reason == pb.CLOSE_REASON_FINISHED
            assert stream.values(number) == logits("abc")
        else:
            assert (closed.reason, closed.position) == (pb.CLOSE_REASON_STEP_FAILED, 0)
            assert stream.values(number) == b""


async def test_a_prediction_fails_with_it(unlucky: LocalServer) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unlucky.stub.Predict(pb.PredictRequest(model="letters", text="abxc"))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == MESSAGE
    answer = await unlucky.stub.Predict(pb.PredictRequest(model="letters", text="abc"))
    assert answer.count == 3
