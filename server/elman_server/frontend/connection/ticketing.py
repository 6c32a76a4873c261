"""Tickets of one caller: cadence, issue and redemption."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from elman_server.durable.named.lease import Lease
from elman_server.durable.named.rewinding import Checkpoint
from elman_server.durable.tickets.content import Attachment
from elman_server.engine.outboxes.mail import SnapshotTaken
from elman_server.engine.sessions.snapshot import NEVER, Cadence, Snapshot
from elman_server.errors import TicketRejected
from elman_server.frontend.caller import Caller
from elman_server.frontend.connection.frame import Open
from elman_server.serving.served import ServedModel
from elman_server.telemetry.table import TICKET_BYTES, TICKETS_ISSUED, TICKETS_REJECTED

_LEAST_PART = 20
"""With a ticket every n elements, a ticket due by time also needs n / 20 new elements: a slow
session has few elements to push again."""


class Ticketing:
    def __init__(self, model: ServedModel, caller: Caller) -> None:
        self._tickets = model.tickets
        self._metrics = model.metrics
        self._identity = caller.identity

    def cadence(self, message: Open) -> Cadence | None:
        """Returns how often a session gets a ticket; None means only on request."""
        if not self._tickets.available:
            return None
        least = self._tickets.least
        elements, seconds = message.ticket_every_elements, message.ticket_every_seconds
        if not elements and not seconds > 0:
            return None
        return Cadence(
            elements=max(elements, least.elements) if elements else NEVER,
            seconds=max(seconds, least.seconds) if seconds > 0 else inf,
            least=max(1, elements // _LEAST_PART),
        )

    def issue(self, taken: SnapshotTaken) -> bytes:
        """Returns a ticket; empty if the model has none."""
        ticket = b""
        if self._tickets.available:
            if isinstance(taken.keeping, Lease):
                ticket = taken.keeping.seal(taken.snapshot)
            else:
                ticket = self._tickets.issue(taken.snapshot, self._identity)
            self._metrics.inc(TICKETS_ISSUED)
            self._metrics.inc(TICKET_BYTES, len(ticket))
        return ticket

    def issue_named(self, snapshot: Snapshot, key: str, attachment: str) -> bytes:
        """Issues a named session's ticket. The ticket also serves as the session's checkpoint.
        `attachment` is the id of the client's attachment, in hex."""
        return self._tickets.issue(
            snapshot,
            self._identity,
            Attachment(session=session_digest(key), id=bytes.fromhex(attachment)),
        )

    def redeem(self, ticket: bytes) -> Snapshot:
        """Returns a ticket's snapshot. Raises `TicketRejected`."""
        with self._counted():
            return self._tickets.redeem(ticket, self._identity)

    def redeem_named(self, ticket: bytes, key: str) -> tuple[Snapshot, Attachment]:
        """Returns snapshot and attachment of a named session's ticket. Raises `TicketRejected`."""
        with self._counted():
            return self._tickets.redeem_named(ticket, self._identity, session_digest(key))

    def kept(self, checkpoint: bytes) -> Checkpoint | None:
        """Reads a named session's checkpoint; None if the server can't use the checkpoint."""
        try:
            content = self._tickets.content(checkpoint, self._identity)
        except TicketRejected:
            return None
        if content.attachment is None:
            return None
        return Checkpoint(position=content.position, attachment=content.attachment.id)

    def check_fingerprint(self, fingerprint: str) -> None:
        """Checks a fingerprint against the model. Raises `TicketRejected`."""
        with self._counted():
            self._tickets.check_fingerprint(fingerprint)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except TicketRejected as error:
            self._metrics.inc(TICKETS_REJECTED, by=error.reason)
            raise


def session_digest(key: str) -> bytes:
    """Returns the digest of a named session's key for use in tickets."""
    return hashlib.sha256(key.encode()).digest()
