"""Packing of an RPC's responses into frames of limited size."""

from collections.abc import Callable, Iterable, Iterator

from elman.v1 import inference_pb2 as pb
from elman_server.engine.arrays import Times
from elman_server.engine.outboxes.mail import Mail
from elman_server.frontend.connection.connection import Refusal
from elman_server.frontend.connection.ticketing import Ticketing
from elman_server.frontend.connection.withheld import NamedOutbox
from elman_server.frontend.wire import closing, messages, wire
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


class FramePacker:
    def __init__(
        self, *, ticketing: Ticketing, window: int, max_bytes: int, sent: Callable[[Times], None]
    ) -> None:
        """`sent` is called with the arrival times of elements when the predictions go out."""
        self._ticketing = ticketing
        self._window = window
        self.max_bytes = max_bytes
        """Size limit of a frame. Only a frame with a single prediction may be larger. The limit may
        change between frames."""
        self._sent = sent

    def pack(self, mail: Mail, refusals: Iterable[Refusal] = ()) -> Iterator[bytes]:
        """Yields serialized `StreamResponse`s in sending order. A frame is filled when the caller
        asks for the frame: answers of sessions forgotten before then are left out."""
        frame, forgotten = _Frame(), mail.forgotten
        for event in mail.opened:
            opened = messages.opened(event, self._window)
            yield from self._room(frame, opened.ByteSize() + _FRAMING)
            frame.parts.append(pb.StreamResponse(opened=[opened]).SerializeToString())
        for delivery in mail.deliveries:
            for part in delivery.split(self.max_bytes):
                yield from self._room(frame, part.sent_nbytes)
                told = part.without(forgotten) if forgotten else part
                if told.numbers:
                    frame.parts += wire.predictions(told)
                    self._sent(told.times)
        for taken in mail.snapshots:
            ticket = messages.ticket(taken, self._ticketing.issue(taken))
            yield from self._room(frame, ticket.ByteSize() + _FRAMING)
            if taken.number in forgotten:
                continue
            frame.parts.append(pb.StreamResponse(tickets=[ticket]).SerializeToString())
        for ended in mail.ended:
            yield from self._room(frame, len(ended.ending.message.encode()) + _CLOSED_NBYTES)
            told_ending = forgotten.get(ended.number, ended.ending)
            closed = closing.closed(ended.number, told_ending, ended.position)
            frame.parts.append(pb.StreamResponse(closed=[closed]).SerializeToString())
        for refusal in refusals:
            closed = closing.refused(refusal)
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


class NamedFrames:
    """Frames with answers of named sessions. Each is made when it may be sent at once."""

    def __init__(self, named: NamedOutbox, pack: Callable[[Mail], Iterator[bytes]]) -> None:
        self._named = named
        self._pack = pack
        self._frames: Iterator[bytes] = iter(())
        """Remaining frames of the mail taken last."""
        self._refusals: Iterator[bytes] = iter(())
        """Remaining frames of refused opens."""
        self.mail_nbytes = 0
        """Approximate size of the mail taken last."""

    def next(self) -> bytes | None:
        """Returns the next frame, to be sent at once; None if no frame may be sent now."""
        self._named.count()
        frame = next(self._refusals, None)
        if frame is None and self._named.withheld:
            self._refusals = self._pack(self._named.collect_refusals())
            return next(self._refusals, None)
        if frame is None:
            frame = next(self._frames, None)
        if frame is None:
            self.mail_nbytes = self._named.outbox.nbytes
            self._frames = self._pack(self._named.collect())
            frame = next(self._frames, None)
        return frame
