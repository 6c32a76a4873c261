"""What an RPC has to tell, packed into frames of bounded size."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from elman.v1 import inference_pb2 as pb
from elman_server.engine.batch import Arrivals, Delivery
from elman_server.engine.outbox import Mail
from elman_server.transport import messages, status

_FRAMING = 8
"""Bytes that an entry takes in its frame beside its own."""


class _Frame:
    """One that is being filled."""

    __slots__ = ("nbytes", "response")

    def __init__(self) -> None:
        self.response = pb.StreamResponse()
        self.nbytes = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePacker:
    max_bytes: int
    """Of a frame, but for a single prediction that is larger."""
    window: int
    """What sessions are told at open."""
    handed_over: Callable[[Arrivals], None]
    """Called with the arrivals of the predictions that go out."""

    def pack(self, mail: Mail, refused: list[pb.Closed]) -> Iterator[pb.StreamResponse]:
        """Frames, in the order in which they are to be sent."""
        frame = _Frame()
        for session in mail.opened:
            opened = pb.Opened(session=session.number, id=session.id, window=self.window)
            yield from self._room(frame, opened.ByteSize() + _FRAMING)
            frame.response.opened.append(opened)
        for delivery in mail.deliveries:
            for part in delivery.split(self.max_bytes):
                yield from self._room(frame, part.sent_nbytes)
                self._add_predictions(frame.response, part)
        ended = [status.closed(s.number, ending, s.position) for s, ending in mail.ended]
        for closed in (*ended, *refused):
            yield from self._room(frame, closed.ByteSize() + _FRAMING)
            frame.response.closed.append(closed)
        if frame.nbytes:
            yield frame.response

    def _room(self, frame: "_Frame", nbytes: int) -> Iterable[pb.StreamResponse]:
        """Makes room in the frame for so many bytes more; gives what was in it if that is full."""
        full: tuple[pb.StreamResponse, ...] = ()
        if frame.nbytes and frame.nbytes + nbytes > self.max_bytes:
            full, frame.response, frame.nbytes = (frame.response,), pb.StreamResponse(), 0
        frame.nbytes += nbytes
        return full

    def _add_predictions(self, response: pb.StreamResponse, part: Delivery) -> None:
        predictions = response.predictions.add(
            sessions=[session.number for session in part.sessions],
            first_positions=part.first_positions,
            outputs=messages.values(part.selection.encode(part.outputs)),
        )
        if part.counts.count(1) != len(part.counts):
            predictions.counts.extend(part.counts)
        self.handed_over(part.arrivals)
