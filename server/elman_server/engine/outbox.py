"""An outbox: what the engine has to tell one caller, and what that caller's sessions share.

Filled by the engine, emptied by the caller's transport. It bounds what a caller that does not read
can make the server keep: while it is full, the scheduler holds the caller's sessions back.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from elman_server.engine.delivery import Delivery, Selection
from elman_server.engine.snapshot import Snapshot

if TYPE_CHECKING:
    from elman_server.engine.session import Ending, Session
    from elman_server.engine.table import Rows

_ids = count(1)

_TOLD_NBYTES = 128
"""What it takes in memory to tell that a session opened or ended, roughly."""


@dataclass(slots=True)
class Mail:
    """What was in an outbox, in the order in which it is to be told: opened, predictions,
    snapshots, ended."""

    opened: list["Session"] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    snapshots: list[tuple["Session", Snapshot]] = field(default_factory=list)
    ended: list[tuple["Session", "Ending"]] = field(default_factory=list)
    forgotten: dict[int, "Ending"] = field(default_factory=dict)
    """Numbers of sessions of which nothing is told any more but that they ended, and how. May grow
    while the rest is being told."""


class Outbox:
    """`limit` is in bytes; two steps may overshoot it, the one that runs and the one that was made
    ahead. `notify` is called after each change that the
    caller should look at."""

    __slots__ = (
        "_forgotten",
        "_mail",
        "_receivers",
        "_refusals",
        "_size",
        "contexts_nbytes",
        "held",
        "limit",
        "notify",
        "pending",
        "unread",
    )

    def __init__(self, *, limit: float, notify: Callable[[], None]) -> None:
        self.limit = limit
        self.notify = notify
        self.pending = 0
        """Elements of this caller's sessions that wait for a step."""
        self.contexts_nbytes = 0
        """Bytes of what this caller's sessions were given that have not begun."""
        self.held: list[tuple[Rows, int]] = []
        """Sessions with elements that wait for this outbox to be emptied, and their place."""
        self.unread: list[Session] = []
        """Sessions whose snapshots are due that wait for this outbox to be emptied."""
        self._receivers: WeakValueDictionary[int, Receiver] = WeakValueDictionary()
        """By the `id` of their selections, while some session has them."""
        self._mail = Mail()
        self._forgotten: dict[int, Ending] = {}
        """Of the mail that was taken last."""
        self._size = 0
        self._refusals = 0
        """Ends of sessions that were never opened to their caller."""

    def receiver(self, selection: Selection) -> "Receiver":
        """The same for the same selection."""
        receiver = self._receivers.get(id(selection))
        if receiver is None:
            receiver = self._receivers[id(selection)] = Receiver(self, selection)
        return receiver

    @property
    def nbytes(self) -> int:
        """Of what it holds, roughly."""
        return self._size

    @property
    def full(self) -> bool:
        return self._size >= self.limit

    def opened(self, session: "Session") -> None:
        self._mail.opened.append(session)
        self._size += _TOLD_NBYTES

    def deliver(self, delivery: Delivery) -> None:
        self._mail.deliveries.append(delivery)
        self._size += delivery.held_nbytes

    def snapshot(self, session: "Session", snapshot: Snapshot) -> None:
        self._mail.snapshots.append((session, snapshot))
        self._size += _TOLD_NBYTES + snapshot.nbytes

    def ended(self, session: "Session", ending: "Ending") -> None:
        self._mail.ended.append((session, ending))
        self._refusals += session.awaited
        self._size += _TOLD_NBYTES

    def forget(self, session: "Session", ending: "Ending") -> None:
        """Nothing is told of a session any more but that it ended so, not even of what was taken
        and not told yet."""
        self._mail.forgotten[session.number] = self._forgotten[session.number] = ending

    def take_refusals(self) -> Mail:
        """The ends alone of sessions that have a name and never came to be kept: there is nothing
        else of them."""
        if not self._refusals:
            return Mail()
        refused = [each for each in self._mail.ended if each[0].awaited]
        self._mail.ended = [each for each in self._mail.ended if not each[0].awaited]
        self._size -= _TOLD_NBYTES * len(refused)
        self._refusals = 0
        return Mail(ended=refused)

    def take(self) -> Mail:
        """Empties the outbox. The scheduler's `release` must follow, so that held sessions go
        on."""
        mail, self._mail, self._size = self._mail, Mail(), 0
        self._refusals = 0
        self._forgotten = mail.forgotten
        return mail


class Receiver:
    """An outbox and a selection: predictions with the same one go out together."""

    __slots__ = ("__weakref__", "id", "outbox", "selection")

    def __init__(self, outbox: Outbox, selection: Selection) -> None:
        self.outbox = outbox
        self.selection = selection
        self.id = next(_ids)
        """No other receiver's."""
