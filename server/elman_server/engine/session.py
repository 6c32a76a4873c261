"""A session: one logical stream, its queue of elements and how it ends."""

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
    """Why a session ended. Each session ends with exactly one."""

    FINISHED = "finished"
    """Its client closed it, and everything that was pushed was answered."""
    INVALID_ELEMENT = "invalid_element"
    INVALID_REQUEST = "invalid_request"
    STEP_FAILED = "step_failed"
    SHUTDOWN = "shutdown"
    MOVED = "moved"
    """Everything that was pushed was answered, and its client has what it takes to go on
    elsewhere."""
    PARKED = "parked"
    """The same, because nothing was pushed for long."""
    TAKEN_OVER = "taken_over"
    """Another client has opened it by its name."""
    UNAVAILABLE = "unavailable"
    """It can't be had now by its name."""
    TICKET_REJECTED = "ticket_rejected"
    """What was kept under its name is of no use here."""
    CANCELLED = "cancelled"
    """Its RPC was cancelled, timed out or broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    reason: EndReason
    message: str = ""
    """For people; empty for FINISHED and CANCELLED."""

    @property
    def hands_over(self) -> bool:
        """Whether the session's last snapshot goes to its caller before it ends."""
        return self.reason in (EndReason.MOVED, EndReason.PARKED)

    @property
    def without_snapshot(self) -> "Ending":
        """The same if there is no last snapshot: then nobody can go on from one."""
        if self.hands_over:
            return Ending(reason=EndReason.SHUTDOWN, message=self.message)
        return self


class Keeping(Protocol):
    """Where a named session is kept."""

    def snapshot(self, snapshot: Snapshot) -> None:
        """Its snapshot was taken."""

    def ended(self) -> None:
        """There will be no other."""


FINISHED = Ending(reason=EndReason.FINISHED)
CANCELLED = Ending(reason=EndReason.CANCELLED)


class Session:
    """One logical stream. Only the scheduler changes it; what it counts is in the table, in the row
    of the session's slot, for as long as the session lives.

    The invariants: it waits in one line at most, and in one as long as its queue holds elements and
    it is part of no other work; it is part of one step, beginning or reading at most at any time,
    and of no step or reading before it has begun.
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
        """The position that it begins at."""
        self.cadence: Cadence | None = None
        """How often its snapshot goes to its caller, if it does unasked."""
        self.start = Start.INITIAL
        self.given: InitialState | None = None
        """What it begins from, while that is due."""
        self.keeping: Keeping | None = None
        """If it has a name. Then it does not end without its last snapshot, but for a step that
        fails."""
        self.reading = False
        """Whether its slot is being read."""
        self.closing: Ending | None = None
        """How it will end once its queue is empty."""
        self.cut = False
        """Whether it ends although its caller does not read: then its last snapshot is taken
        however full the outbox is."""
        self.ended: Ending | None = None
        self._table = table
        self._answered = 0

    def end(self, ending: Ending) -> None:
        self._answered = self.position
        self.ended = ending

    @property
    def hands_over(self) -> bool:
        """Whether its snapshot is taken before it ends."""
        closing = self.closing
        return closing is not None and (closing.hands_over or self.keeping is not None)

    @property
    def awaited(self) -> bool:
        """Whether it is not known what it begins from; or was not when it ended."""
        return self.start is Start.AWAITED

    @property
    def outbox(self) -> Outbox:
        return self.receiver.outbox

    @property
    def selection(self) -> Selection:
        return self.receiver.selection

    @property
    def pending(self) -> int:
        """Elements that wait for a step."""
        return 0 if self.ended else int(self._table.waiting[self.slot.index])

    @property
    def in_flight(self) -> int:
        """Elements that are part of a step, and go to somebody."""
        return 0 if self.ended else int(self._table.in_flight[self.slot.index])

    @property
    def position(self) -> int:
        """How many elements were answered: the position of the next prediction."""
        return self._answered if self.ended else int(self._table.position[self.slot.index])

    @property
    def unanswered(self) -> int:
        """Those and those."""
        return self.pending + self.in_flight
