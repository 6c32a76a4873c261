"""A session: a logical stream with a queue of elements and an ending."""

from elman_server.engine.outboxes.delivery import Selection
from elman_server.engine.outboxes.mail import Ended, Opened, SnapshotTaken
from elman_server.engine.outboxes.outbox import Outbox, Receiver
from elman_server.engine.sessions.ending import Ending
from elman_server.engine.sessions.phase import Phase
from elman_server.engine.sessions.snapshot import Cadence, Keeping, Snapshot
from elman_server.engine.sessions.state_pool import Slot
from elman_server.engine.sessions.table import SessionTable


class Session:
    """One logical stream. Changed by the scheduler alone. While the session lives, its counts are
    in the table, in the row of the session's slot.

    Invariants: a session waits in at most one queue, and always does so with elements and without
    in-flight work. A session is part of at most one job at a time, and of no step or capture before
    its state is ready.
    """

    __slots__ = (
        "_answered",
        "_refused",
        "_table",
        "cadence",
        "closing",
        "ended",
        "first",
        "id",
        "keeping",
        "number",
        "receiver",
        "slot",
    )

    def __init__(
        self,
        *,
        id: str,
        number: int,
        receiver: Receiver,
        slot: Slot,
        table: SessionTable,
        cadence: Cadence | None = None,
    ) -> None:
        self.id = id
        self.number = number
        self.receiver = receiver
        self.slot = slot
        self.first = 0
        """First position of the session."""
        self.cadence = cadence
        """Interval of snapshots for the caller without a request; `None`: none."""
        self.keeping: Keeping | None = None
        """Destination of checkpoints, for a named session after `Engine.found`. Such a session ends
        only after a last snapshot, unless a step fails."""
        self.closing: Ending | None = None
        """The ending to come, once the queue is empty."""
        self.ended: Ending | None = None
        self._table = table
        self._answered, self._refused = 0, False

    def end(self, ending: Ending) -> None:
        self._answered, self._refused = self.position, self.awaited
        self.ended = ending

    @property
    def hands_over(self) -> bool:
        """Whether a last snapshot is taken before the session ends."""
        closing = self.closing
        return closing is not None and (closing.hands_over or self.keeping is not None)

    @property
    def phase(self) -> Phase:
        """The phase of a session that has not ended."""
        return Phase(int(self._table.phase[self.slot.index]))

    @property
    def awaited(self) -> bool:
        """Whether the lookup of the first state is still running, or was when the session ended."""
        return self._refused if self.ended else self.phase is Phase.AWAITED

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
    def opened_event(self) -> Opened:
        return Opened(
            number=self.number, id=self.id, first_position=self.first, cadence=self.cadence
        )

    def snapshot_event(self, snapshot: Snapshot) -> SnapshotTaken:
        return SnapshotTaken(number=self.number, snapshot=snapshot, keeping=self.keeping)

    def ended_event(self, ending: Ending) -> Ended:
        return Ended(
            number=self.number, ending=ending, position=self.position, awaited=self.awaited
        )

    @property
    def unanswered(self) -> int:
        """Elements waiting or in a step."""
        return self.pending + self.in_flight
