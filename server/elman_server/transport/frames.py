"""What an RPC has to tell, packed into frames of bounded size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from elman.v1 import inference_pb2 as pb
from elman_server.engine.batch import Arrivals, Delivery
from elman_server.engine.outbox import Mail
from elman_server.transport import messages, status

_FRAMING = 8
"""Bytes that an entry takes in its frame beside its own."""

Entry = tuple[int, Callable[[pb.StreamResponse], object]]
"""How many bytes something takes, and what puts it into a frame."""


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
        response, size = pb.StreamResponse(), 0
        for nbytes, add in self._entries(mail, refused):
            if size and size + nbytes > self.max_bytes:
                yield response
                response, size = pb.StreamResponse(), 0
            size += nbytes
            add(response)
        if size:
            yield response

    def _entries(self, mail: Mail, refused: list[pb.Closed]) -> Iterator[Entry]:
        for session in mail.opened:
            opened = pb.Opened(session=session.number, id=session.id, window=self.window)
            yield opened.ByteSize() + _FRAMING, partial(_add_opened, opened=opened)
        for delivery in mail.deliveries:
            for part in delivery.split(self.max_bytes):
                yield part.sent_nbytes, partial(self._add_predictions, part=part)
        ended = [status.closed(s.number, ending, s.position) for s, ending in mail.ended]
        for closed in [*ended, *refused]:
            yield closed.ByteSize() + _FRAMING, partial(_add_closed, closed=closed)

    def _add_predictions(self, response: pb.StreamResponse, part: Delivery) -> None:
        predictions = response.predictions.add(
            sessions=[session.number for session in part.sessions],
            first_positions=part.first_positions,
            outputs=messages.values(part.selection.encode(part.outputs)),
        )
        if part.counts.count(1) != len(part.counts):
            predictions.counts.extend(part.counts)
        self.handed_over(part.arrivals)


def _add_opened(response: pb.StreamResponse, opened: pb.Opened) -> None:
    response.opened.append(opened)


def _add_closed(response: pb.StreamResponse, closed: pb.Closed) -> None:
    response.closed.append(closed)
