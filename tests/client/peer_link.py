"""A multiplexer and a scripted peer. Frames move only when a test calls `write` or `answer`."""

from typing import Any

from elman._core.rpc.multiplexer import Multiplexer
from elman._core.session.operation import Operation
from elman._core.session.session import Session
from elman._core.session.session_options import SessionOptions
from elman._wire.outputs import resolve
from elman._wire.prediction import Prediction
from elman.v1 import inference_pb2 as pb
from tests.client.peer import KNOWN, MODEL, Peer


class PeerLink:
    """Each message is serialised and parsed on the way."""

    def __init__(self, *, window: int = 4, max_frame_bytes: int = 1 << 20) -> None:
        self.window = window
        self.peer = Peer()
        self.writable = 0
        self.woken: list[int] = []
        self.multiplexer = Multiplexer(KNOWN, writable=self._count, max_frame_bytes=max_frame_bytes)

    def _count(self) -> None:
        self.writable += 1

    def open(self, outputs: Any = None) -> Session:
        number = len(self.peer.answered) + 1
        options = SessionOptions(layout=resolve(MODEL, outputs))
        return self.multiplexer.open(options, lambda: self.woken.append(number))

    def opened(self, outputs: Any = None) -> Session:
        """A session that the peer has opened."""
        session = self.open(outputs)
        self.write()
        return session

    def write(self) -> pb.StreamRequest | None:
        """Sends one frame."""
        frame = self.multiplexer.take()
        if frame is not None:
            response = self.peer.take(frame, self.window)
            self.multiplexer.receive(pb.StreamResponse.FromString(response.SerializeToString()))
        return frame

    def answer(self, **counts: int) -> None:
        """Answers the given number of elements of sessions, or all elements."""
        everything = {number: len(text) for number, text in self.peer.unanswered.items()}
        chosen = {int(name[1:]): count for name, count in counts.items()} or everything
        self.multiplexer.receive(self.peer.answer(chosen))


def finished(operation: Operation[Any]) -> Any:
    """Returns the result of an operation that does not wait."""
    try:
        next(operation)
    except StopIteration as result:
        return result.value
    raise AssertionError("it waits")


def read(session: Session) -> list[Prediction]:
    return [finished(session.next()) for _ in range(len(session.inbox))]
