"""A session: a logical stream with a queue of elements and an ending."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from elman_server.engine.delivery import Selection
from elman_server.engine.init import InitialState, Start
from elman_server.engine.outbox import Outbox, Receiver
from elman_server.engine.snapshot import Cadence, Snapshot
from elman_server.engine.state_pool import Slot
from elman_server.engine.table import SessionTable


class EndReason(StrEnum):
    """Reason for a session's end. Each session ends with exactly one reason."""

    FINISHED = "finished"
    """The client closed the session, and all pushed elements were answered."""
    INVALID_ELEMENT = "invalid_element"
    INVALID_REQUEST = "invalid_request"
    STEP_FAILED = "step_failed"
    SHUTDOWN = "shutdown"
    MOVED = "moved"
    """All pushed elements were answered, and the client can resume the session elsewhere."""
    PARKED = "parked"
    """All pushed elements were answered, and no element came for long; the client can resume."""
    TAKEN_OVER = "taken_over"
    """Another client opened the session by its name."""
    UNAVAILABLE = "unavailable"
    """The named session is not available now."""
    TICKET_REJECTED = "ticket_rejected"
    """The named session's checkpoint is not usable here."""
    CANCELLED = "cancelled"
    """The RPC was cancelled, timed out or broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    reason: EndReason
    message: str = ""
    """Text for people; empty for FINISHED and CANCELLED."""

    @property
    def hands_over(self) -> bool:
        """Whether the caller gets the session's last snapshot before the end."""
        return self.reason in (EndReason.MOVED, EndReason.PARKED)

    @property
    def without_snapshot(self) -> "Ending":
        """The ending to use without a last snapshot: the session can't be resumed."""
        if self.hands_over:
            return Ending(reason=EndReason.SHUTDOWN, message=self.message)
        return self


class Keeping(Protocol):
    """Destination of a named session's checkpoints."""

    def snapshot(self, snapshot: Snapshot) -> None:
        """Takes the session's new snapshot."""

    def ended(self) -> None:
        """Notes the session's end: no more snapshots follow."""


FINISHED = Ending(reason=EndReason.FINISHED)
CANCELLED = Ending(reason=EndReason.CANCELLED)


class Session:
    """One logical stream. Changed by the scheduler alone. While the session lives, its counts are
    in the table, in the row of the session's slot.

    Invariants: a session waits in at most one queue, and always does so with elements and without
    in-flight work. A session is part of at most one job at a time, and of no step or capture before
    its state is ready.
    """

    __slots__ = (
        "_answered",
        "_table",
        "cadence",
        "closing",
        "cut",
        "ended",
        "first",
        "given",
        "id",
        "keeping",
        "number",
        "reading",
        "receiver",
        "slot",
        "start",
    )

    def __init__(
        self, *, id: str, number: int, receiver: Receiver, slot: Slot, table: SessionTable
    ) -> None:
        self.id = id
        self.number = number
        self.receiver = receiver
        self.slot = slot
        self.first = 0
        """First position of the session."""
        self.cadence: Cadence | None = None
        """Interval of snapshots for the caller without a request; `None`: none."""
        self.start = Start.INITIAL
        self.given: InitialState | None = None
        """Source of the first state, while the session waits for it."""
        self.keeping: Keeping | None = None
        """Destination of checkpoints, for a named session after `Engine.found`. Such a session ends
        only after a last snapshot, unless a step fails."""
        self.reading = False
        """Whether the slot is being captured."""
        self.closing: Ending | None = None
        """The ending to come, once the queue is empty."""
        self.cut = False
        """Whether the last snapshot is taken even if the outbox is full, so that the session ends
        although the caller does not read."""
        self.ended: Ending | None = None
        self._table = table
        self._answered = 0

    def end(self, ending: Ending) -> None:
        self._answered = self.position
        self.ended = ending

    @property
    def hands_over(self) -> bool:
        """Whether a last snapshot is taken before the session ends."""
        closing = self.closing
        return closing is not None and (closing.hands_over or self.keeping is not None)

    @property
    def awaited(self) -> bool:
        """Whether the lookup of the first state is still running, or was when the session ended."""
        return self.start is Start.AWAITED

    @property
    def outbox(self) -> Outbox:
        return self.receiver.outbox

    @property
    def selection(self) -> Selection:
        return self.receiver.selection

    @property
    def pending(self) -> int:
        """Elements waiting for a step."""
        return 0 if self.ended else int(self._table.waiting[self.slot.index])

    @property
    def in_flight(self) -> int:
        """Elements in a step, running or made ahead; 0 after the session's end."""
        return 0 if self.ended else int(self._table.in_flight[self.slot.index])

    @property
    def position(self) -> int:
        """Elements answered: the position of the next prediction."""
        return self._answered if self.ended else int(self._table.position[self.slot.index])

    @property
    def unanswered(self) -> int:
        """Elements waiting or in a step."""
        return self.pending + self.in_flight
