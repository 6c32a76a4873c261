"""The queue of sessions with a snapshot due. Used by the scheduler alone."""

from collections import OrderedDict
from collections.abc import Callable

from elman_server.engine.outbox import Outbox
from elman_server.engine.snapshot import CaptureJob
from elman_server.engine.table import READ, SessionTable


class CaptureQueue:
    def __init__(self, table: SessionTable, *, hold: Callable[[Outbox], None]) -> None:
        """`hold` is called with an outbox that is full at the turn of a session."""
        self._table = table
        self._hold = hold
        self._due: OrderedDict[int, None] = OrderedDict()
        """Rows in the order of their captures."""
        self._held: dict[Outbox, OrderedDict[int, None]] = {}
        """Rows whose capture waits until the outbox is emptied."""
        self._hastened: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._due)

    def add(self, row: int) -> None:
        """Queues a session. No other work is done for the session before the snapshot."""
        if self._table.place[row] != READ:
            self._table.place[row] = READ
            self._due[row] = None

    def release(self, outbox: Outbox) -> bool:
        """Queues sessions again after their outbox was full. Returns whether there were any."""
        held = self._held.pop(outbox, None)
        if held:
            self._due.update(held)
        return bool(held)

    def hasten(self, row: int) -> None:
        """Has a session captured in spite of a full outbox from now on."""
        self._hastened.add(row)
        if self._leave_held(row):
            self._due[row] = None

    def forget(self, row: int) -> None:
        """Drops an ended session."""
        self._due.pop(row, None)
        self._leave_held(row)
        self._hastened.discard(row)

    def take(self, most: int) -> CaptureJob | None:
        """Takes the next sessions, at most `most`; `None` if no session can be captured."""
        slots: list[int] = []
        while self._due and len(slots) < most:
            row, _ = self._due.popitem(last=False)
            outbox = self._outbox(row)
            if outbox.full and row not in self._hastened:
                # Otherwise a drain would hold the states of all sessions twice.
                self._held.setdefault(outbox, OrderedDict())[row] = None
                self._hold(outbox)
                continue
            slots.append(row)
        return CaptureJob(slots=slots) if slots else None

    def _leave_held(self, row: int) -> bool:
        """Takes a row out of the held rows. Returns whether the row was held."""
        outbox = self._outbox(row)
        held = self._held.get(outbox)
        if held is None or row not in held:
            return False
        del held[row]
        if not held:
            del self._held[outbox]
        return True

    def _outbox(self, row: int) -> Outbox:
        return self._table.receiver_of(row).outbox
