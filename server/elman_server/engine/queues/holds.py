"""Sessions held back because their caller does not read. Used by the scheduler and its queues."""

from elman_server.engine.arrays import Rows
from elman_server.engine.outboxes.outbox import Outbox
from elman_server.engine.queues.ready_queue import ReadyQueue
from elman_server.engine.sessions.phase import Phase
from elman_server.engine.sessions.table import SessionTable


class Holds:
    def __init__(self, table: SessionTable, ready: ReadyQueue) -> None:
        self._table = table
        self._ready = ready
        self._held: dict[Outbox, list[tuple[Rows, int]]] = {}
        """Outboxes that wait to be emptied, with the rows and queue numbers of held sessions."""

    @property
    def elements(self) -> int:
        """Elements of all held outboxes that wait for a step."""
        # Called at each push, and mostly no outbox is held.
        return sum(outbox.pending for outbox in self._held) if self._held else 0

    def add(self, outbox: Outbox) -> None:
        """Counts an outbox's waiting elements as held until the caller reads."""
        self._held.setdefault(outbox, [])

    def add_rows(self, outbox: Outbox, rows: Rows) -> None:
        """Takes rows of a full outbox out of the ready queue."""
        table = self._table
        table.queue_number[rows] = number = self._ready.new_number()
        table.phase[rows] = Phase.HELD
        self._held.setdefault(outbox, []).append((rows, number))

    def release(self, outbox: Outbox) -> bool:
        """Queues an emptied outbox's rows again. Returns whether the outbox was held."""
        held = self._held.pop(outbox, None)
        for rows, number in held or ():
            present = rows[self._table.queue_number[rows] == number]
            if len(present):
                self._ready.append(present, self._table.waiting[present])
        return held is not None

    def forget(self, outbox: Outbox) -> None:
        """Drops an outbox without waiting elements."""
        self._held.pop(outbox, None)
