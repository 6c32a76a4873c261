"""What an RPC has to tell, packed into frames of bounded size."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from elman.v1 import inference_pb2 as pb
from elman_server.engine.outbox import Mail
from elman_server.engine.queues import Times
from elman_server.engine.session import Session
from elman_server.engine.snapshot import Snapshot
from elman_server.frontend.grpcio import status
from elman_server.frontend.wire import wire
from elman_server.model.selection import Buffer

_FRAMING = 8
"""Bytes that an entry takes in its frame beside its own."""
_MAX_ENTRIES = 64
"""Of a frame: others wait while it is filled."""
_CLOSED_NBYTES = 128
"""That it takes to tell that a session ended, its message aside."""


class _Frame:
    """One that is being filled. Serialized messages of one type, joined, are one message with the
    entries of all of them."""

    __slots__ = ("entries", "nbytes", "parts")

    def __init__(self) -> None:
        self.parts: list[Buffer] = []
        self.entries = 0
        self.nbytes = 0

    def take(self) -> bytes:
        """What it holds; it is empty afterwards."""
        frame = b"".join(self.parts)
        self.parts, self.entries, self.nbytes = [], 0, 0
        return frame


@dataclass(slots=True, kw_only=True)
class FramePacker:
    max_bytes: int
    """Of a frame, but for a single prediction that is larger. May change from frame to frame."""
    opened: Callable[[Session], pb.Opened]
    """What a session is told at open."""
    ticket: Callable[[Session, Snapshot], pb.Ticket]
    """What becomes of a snapshot."""
    handed_over: Callable[[Times], None]
    """Called with the times at which the elements arrived whose predictions go out."""

    def pack(self, mail: Mail, refused: list[pb.Closed]) -> Iterator[bytes]:
        """Serialized `StreamResponse`s, in the order in which they are to be sent. What one holds
        is looked at when it is asked for: what is forgotten before that is not in it."""
        frame, forgotten = _Frame(), mail.forgotten
        for session in mail.opened:
            opened = self.opened(session)
            yield from self._room(frame, opened.ByteSize() + _FRAMING)
            frame.parts.append(pb.StreamResponse(opened=[opened]).SerializeToString())
        for delivery in mail.deliveries:
            for part in delivery.split(self.max_bytes):
                yield from self._room(frame, part.sent_nbytes)
                told = part.without(forgotten) if forgotten else part
                if told.numbers:
                    frame.parts += wire.predictions(told)
                    self.handed_over(told.times)
        for session, snapshot in mail.snapshots:
            ticket = self.ticket(session, snapshot)
            yield from self._room(frame, ticket.ByteSize() + _FRAMING)
            if session.number in forgotten:
                continue
            frame.parts.append(pb.StreamResponse(tickets=[ticket]).SerializeToString())
        for session, ending in mail.ended:
            yield from self._room(frame, len(ending.message.encode()) + _CLOSED_NBYTES)
            told_ending = forgotten.get(session.number, ending)
            closed = status.closed(session.number, told_ending, session.position)
            frame.parts.append(pb.StreamResponse(closed=[closed]).SerializeToString())
        for closed in refused:
            yield from self._room(frame, closed.ByteSize() + _FRAMING)
            frame.parts.append(pb.StreamResponse(closed=[closed]).SerializeToString())
        if frame.nbytes:
            yield frame.take()

    def _room(self, frame: _Frame, nbytes: int) -> Iterable[bytes]:
        """Makes room in the frame for so many bytes more; gives what was in it if that is full."""
        full: tuple[bytes, ...] = ()
        if frame.entries == _MAX_ENTRIES or (
            frame.nbytes and frame.nbytes + nbytes > self.max_bytes
        ):
            full = (frame.take(),)
        frame.entries += 1
        frame.nbytes += nbytes
        return full
