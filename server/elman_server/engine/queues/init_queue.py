"""The queue of sessions without a state. Used by the scheduler alone."""

from collections import OrderedDict

from elman_server.engine.sessions.initial_state import InitialState, nbytes
from elman_server.engine.sessions.phase import Phase
from elman_server.engine.sessions.snapshot import Snapshot
from elman_server.engine.sessions.table import SessionTable


class InitQueue:
    """Initial states of sessions without a ready state, in the order of their opens."""

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self._due: OrderedDict[int, InitialState] = OrderedDict()
        """Initial states by row."""
        self._nbytes: dict[int, int] = {}
        """Bytes of initial states by row, until the slot holds the state."""
        self.nbytes = 0
        """Bytes of all these initial states."""

    def __bool__(self) -> bool:
        return bool(self._due)

    def expect(self, row: int, initial_state: InitialState | None) -> None:
        """Marks a session as awaited. `initial_state` is for use if the lookup finds no state."""
        self._table.move(row, Phase.AWAITED)
        if initial_state is not None:
            self._count(row, nbytes(initial_state))

    def add(self, row: int, initial_state: InitialState) -> None:
        self._table.move(row, Phase.INIT_DUE)
        self._due[row] = initial_state
        self._count(row, nbytes(initial_state))

    def take(self, *, contexts: int, snapshots: int) -> dict[int, InitialState]:
        """Takes the initial states of the next sessions by row, all of the same kind: at most so
        many contexts, or snapshots."""
        taken: dict[int, InitialState] = {}
        kind = None
        while self._due:
            row, initial_state = next(iter(self._due.items()))
            restored = isinstance(initial_state, Snapshot)
            if len(taken) == (snapshots if restored else contexts) or kind is (not restored):
                break
            kind = restored
            del self._due[row]
            self._table.move(row, Phase.INITIALIZING)
            taken[row] = initial_state
        return taken

    def settle(self, row: int) -> None:
        """Stops counting the bytes of a session's initial state, if there are any."""
        count = self._nbytes.pop(row, 0)
        self._table.receiver_of(row).outbox.contexts_nbytes -= count
        self.nbytes -= count

    def forget(self, row: int) -> None:
        """Drops the initial state of a session that waits, if any."""
        if int(self._table.phase[row]) in (Phase.AWAITED, Phase.INIT_DUE):
            self._due.pop(row, None)
            self.settle(row)

    def _count(self, row: int, nbytes: int) -> None:
        self._nbytes[row] = nbytes
        self._table.receiver_of(row).outbox.contexts_nbytes += nbytes
        self.nbytes += nbytes
