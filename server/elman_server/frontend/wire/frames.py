"""Packing of an RPC's responses into frames of limited size."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from elman.v1 import inference_pb2 as pb
from elman_server.engine.arrays import Times
from elman_server.engine.mail import Mail, Opened, SnapshotTaken
from elman_server.frontend.wire import closing, wire
from elman_server.model.selection import Buffer

_FRAMING = 8
"""Bytes of framing for each entry of a frame."""
_MAX_ENTRIES = 64
"""Most entries of a frame: filling a frame keeps other work waiting."""
_CLOSED_NBYTES = 128
"""Bytes of the notice of a session's end, without the message text."""


class _Frame:
    """A frame that is being filled. Serialized messages of the same type, joined together, form a
    single message with all entries."""

    __slots__ = ("entries", "nbytes", "parts")

    def __init__(self) -> None:
        self.parts: list[Buffer] = []
        self.entries = 0
        self.nbytes = 0

    def take(self) -> bytes:
        """Returns the frame's bytes and empties the frame."""
        frame = b"".join(self.parts)
        self.parts, self.entries, self.nbytes = [], 0, 0
        return frame


@dataclass(slots=True, kw_only=True)
class FramePacker:
    max_bytes: int
    """Size limit of a frame. Only a frame with a single prediction may be larger. The limit may
    change between frames."""
    opened: Callable[[Opened], pb.Opened]
    """Builds the response to an open."""
    ticket: Callable[[SnapshotTaken], pb.Ticket]
    """Builds the ticket for a snapshot."""
    handed_over: Callable[[Times], None]
    """Called with the arrival times of elements when the predictions go out."""

    def pack(self, mail: Mail, refused: list[pb.Closed]) -> Iterator[bytes]:
        """Yields serialized `StreamResponse`s in sending order. A frame is filled when the caller
        asks for the frame: answers of sessions forgotten before then are left out."""
        frame, forgotten = _Frame(), mail.forgotten
        for event in mail.opened:
            opened = self.opened(event)
            yield from self._room(frame, opened.ByteSize() + _FRAMING)
            frame.parts.append(pb.StreamResponse(opened=[opened]).SerializeToString())
        for delivery in mail.deliveries:
            for part in delivery.split(self.max_bytes):
                yield from self._room(frame, part.sent_nbytes)
                told = part.without(forgotten) if forgotten else part
                if told.numbers:
                    frame.parts += wire.predictions(told)
                    self.handed_over(told.times)
        for taken in mail.snapshots:
            ticket = self.ticket(taken)
            yield from self._room(frame, ticket.ByteSize() + _FRAMING)
            if taken.number in forgotten:
                continue
            frame.parts.append(pb.StreamResponse(tickets=[ticket]).SerializeToString())
        for ended in mail.ended:
            yield from self._room(frame, len(ended.ending.message.encode()) + _CLOSED_NBYTES)
            told_ending = forgotten.get(ended.number, ended.ending)
            closed = closing.closed(ended.number, told_ending, ended.position)
            frame.parts.append(pb.StreamResponse(closed=[closed]).SerializeToString())
        for closed in refused:
            yield from self._room(frame, closed.ByteSize() + _FRAMING)
            frame.parts.append(pb.StreamResponse(closed=[closed]).SerializeToString())
        if frame.nbytes:
            yield frame.take()

    def _room(self, frame: _Frame, nbytes: int) -> Iterable[bytes]:
        """Makes room for an entry of `nbytes` bytes. Returns the frame's old content if the entry
        did not fit."""
        full: tuple[bytes, ...] = ()
        if frame.entries == _MAX_ENTRIES or (
            frame.nbytes and frame.nbytes + nbytes > self.max_bytes
        ):
            full = (frame.take(),)
        frame.entries += 1
        frame.nbytes += nbytes
        return full
