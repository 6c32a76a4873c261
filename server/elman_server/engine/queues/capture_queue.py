"""The queue of sessions with a snapshot due. Used by the scheduler alone."""

from collections import OrderedDict

from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.queues.holds import Holds
from elman_server.engine.sessions.phase import Phase, Stage
from elman_server.engine.sessions.table import SessionTable


class CaptureQueue:
    def __init__(self, table: SessionTable, holds: Holds) -> None:
        self._table = table
        self._holds = holds
        self._due: OrderedDict[int, None] = OrderedDict()
        """Rows in the order of their captures."""
        self._held: dict[Outbox, OrderedDict[int, None]] = {}
        """Rows whose capture waits until the outbox is emptied."""

    def __bool__(self) -> bool:
        return bool(self._due)

    def add(self, row: int) -> None:
        """Queues a session. No other work is done for the session before the snapshot."""
        if int(self._table.phase[row]) not in (Phase.CAPTURE_DUE, Phase.CAPTURING):
            self._table.move(row, Phase.CAPTURE_DUE)
            self._due[row] = None

    def release(self, outbox: Outbox) -> bool:
        """Queues sessions again after their outbox was full. Returns whether there were any."""
        held = self._held.pop(outbox, None)
        if held:
            self._due.update(held)
        return bool(held)

    def hasten(self, row: int) -> None:
        """Queues a cut session again in spite of a full outbox."""
        if self._leave_held(row):
            self._due[row] = None

    def forget(self, row: int) -> None:
        """Drops an ended session."""
        self._due.pop(row, None)
        self._leave_held(row)

    def take(self, most: int) -> list[int]:
        """Takes the rows of the next sessions, at most `most`."""
        table = self._table
        rows: list[int] = []
        while self._due and len(rows) < most:
            row, _ = self._due.popitem(last=False)
            outbox = table.receiver_of(row).outbox
            if outbox.full and int(table.stage[row]) != Stage.CUT:
                # Otherwise a drain would hold the states of all sessions twice.
                self._held.setdefault(outbox, OrderedDict())[row] = None
                self._holds.add(outbox)
                continue
            table.move(row, Phase.CAPTURING)
            rows.append(row)
        return rows

    def _leave_held(self, row: int) -> bool:
        """Takes a row out of the held rows. Returns whether the row was held."""
        outbox = self._table.receiver_of(row).outbox
        held = self._held.get(outbox)
        if held is None or row not in held:
            return False
        del held[row]
        if not held:
            del self._held[outbox]
        return True
