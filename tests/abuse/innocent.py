"""An innocent session in a process of its own: one element each few milliseconds, by the raw wire.

Beside it a newcomer comes each half second: a connection of its own, a health check, a session,
one element.

    python -m tests.abuse.innocent TARGET TASK     until its standard input ends; then JSON
"""

import json
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from queue import SimpleQueue
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from elman.v1 import inference_pb2 as pb
from elman.v1.inference_pb2_grpc import InferenceStub

GAP_SECONDS = 0.005
NEWCOMER_SECONDS = 0.5
_PATIENCE_SECONDS = 30.0
"""For an answer; an innocent caller that waits for longer has met an error."""
_RETRY_SECONDS = 0.1
_REFUSALS = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What it pushes, round and round."""

    model: str
    output: str
    text: str = ""
    features: tuple[tuple[float, ...], ...] = ()
    """Instead of text: float32 arrays."""

    @property
    def elements(self) -> Sequence[str | tuple[float, ...]]:
        return self.text or self.features


SENTIMENT = Task(
    model="sentiment", output="positive", text="what a good day this is and no bad word in it "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """What an innocent session met. Times are seconds on the monotonic clock, which all processes
    of a machine share."""

    sent: list[float] = field(default_factory=list)
    """When each element was pushed."""
    seconds: list[float] = field(default_factory=list)
    """What the answer to each took."""
    values: list[list[float]] = field(default_factory=list)
    """The predictions, flat."""
    came: list[float] = field(default_factory=list)
    """When each newcomer came."""
    newcomers: list[float] = field(default_factory=list)
    """What each newcomer's connection, health check and first prediction took together."""
    first_values: list[list[float]] = field(default_factory=list)
    """Those predictions."""
    errors: list[str] = field(default_factory=list)

    def between(self, spans: Sequence[tuple[float, float]]) -> list[float]:
        """The waits of a caller who comes at any time within these spans, each `GAP_SECONDS` one.

        An element that waits for long keeps the next ones from being pushed; those that should
        have been pushed meanwhile count too, with what they would have waited.
        """
        found = []
        for sent, seconds in zip(self.sent, self.seconds, strict=True):
            moment, answered = sent, sent + seconds
            while moment <= answered:
                if any(begun <= moment < ended for begun, ended in spans):
                    found.append(answered - moment)
                moment += GAP_SECONDS
        return found


class _Session:
    """One session on one RPC."""

    def __init__(self, channel: grpc.Channel, task: Task) -> None:
        self._requests: SimpleQueue[pb.StreamRequest | None] = SimpleQueue()
        self._responses: Any = InferenceStub(channel).Stream(iter(self._requests.get, None))
        self._since: float | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        opening = pb.Open(session=1, outputs=[pb.OutputRequest(name=task.output)])
        self._requests.put(pb.StreamRequest(model=task.model, opens=[opening]))

    def step(self, element: str | tuple[float, ...]) -> list[float]:
        push = pb.Push(sessions=[1])
        if isinstance(element, str):
            push.text = element
        else:
            push.raw = struct.pack(f"<{len(element)}f", *element)
        self._since = monotonic()
        self._requests.put(pb.StreamRequest(push=push))
        for response in self._responses:
            for closed in response.closed:
                raise RuntimeError(f"closed: {closed}")
            for predictions in response.predictions:
                self._since = None
                return list(map(float, np.frombuffer(predictions.outputs[0].values, "<f4")))
        raise RuntimeError("the RPC ended")

    def close(self) -> None:
        self._ended.set()
        self._requests.put(None)
        self._responses.cancel()

    def _watch(self) -> None:
        """The deadline of each answer."""
        while not self._ended.wait(1.0):
            if self._since is not None and monotonic() - self._since > _PATIENCE_SECONDS:
                self._responses.cancel()


def _newcomer(target: str, task: Task) -> list[float]:
    with grpc.insecure_channel(target, options=_OPTIONS) as channel:
        stub: Any = HealthStub(channel)
        health = stub.Check(HealthCheckRequest(), timeout=_PATIENCE_SECONDS)
        if health.status != health.SERVING:
            raise RuntimeError(f"health: {health}")
        session = _Session(channel, task)
        try:
            return session.step(task.elements[0])
        finally:
            session.close()


def _newcomers(target: str, task: Task, experience: Experience, stop: threading.Event) -> None:
    while not stop.wait(NEWCOMER_SECONDS):
        begun = monotonic()
        try:
            experience.first_values.append(_patient_newcomer(target, task))
        except Exception as error:
            experience.errors.append(f"newcomer after {monotonic() - begun:.1f} s: {error!r}"[:500])
        experience.came.append(begun)
        experience.newcomers.append(monotonic() - begun)


def _patient_newcomer(target: str, task: Task) -> list[float]:
    """It comes again when it is refused, as clients of gRPC do."""
    end = monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return _newcomer(target, task)
        except grpc.RpcError as error:
            code = error.code()
            if code not in _REFUSALS or monotonic() > end:
                raise
            sleep(_RETRY_SECONDS)


def _main(target: str, task: Task) -> None:
    experience, stop = Experience(), threading.Event()
    threading.Thread(target=_listen, args=(stop,), daemon=True).start()
    newcomers = threading.Thread(target=_newcomers, args=(target, task, experience, stop))
    with grpc.insecure_channel(target, options=_OPTIONS) as channel:
        try:
            session = _Session(channel, task)
            for element in cycle(task.elements):
                begun = monotonic()
                experience.values.append(session.step(element))
                ended = monotonic()
                experience.sent.append(begun)
                experience.seconds.append(ended - begun)
                if len(experience.values) == 1:
                    newcomers.start()
                    print("begun", flush=True)
                if stop.is_set():
                    break
                sleep(max(0.0, begun + GAP_SECONDS - ended))
            session.close()
        except Exception as error:
            experience.errors.append(f"after {len(experience.values)} elements: {error!r}"[:500])
            print("begun", flush=True)
        stop.wait()
        if newcomers.ident is not None:
            newcomers.join()
    print(json.dumps(asdict(experience)), flush=True)


def _listen(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


class Innocent:
    """That process. Entered when its first element is answered."""

    def __init__(self, target: str, task: Task = SENTIMENT) -> None:
        self._target = target
        self._task = task
        self._experience: Experience | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.abuse.innocent", self._target),
                json.dumps(asdict(self._task)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "begun\n"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._experience is None:
            self._process.kill()
            self._process.communicate()

    def stop(self) -> Experience:
        """Ends it; what it met."""
        output, _ = self._process.communicate(timeout=2 * _PATIENCE_SECONDS)
        self._experience = Experience(**json.loads(output.splitlines()[-1]))
        return self._experience


if __name__ == "__main__":
    _main(sys.argv[1], Task(**json.loads(sys.argv[2])))
