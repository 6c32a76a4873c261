"""An outbox: the engine's messages for a caller, and figures common to the caller's sessions.

The engine fills the outbox, the caller's transport empties it. The outbox bounds the memory used
for a caller that does not read: while the outbox is full, the scheduler holds the caller's sessions
back.
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
"""Bytes in memory of a message about a session's open or end, roughly."""


@dataclass(slots=True)
class Mail:
    """Contents of an outbox, in sending order: opened, predictions, snapshots, ended."""

    opened: list["Session"] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    snapshots: list[tuple["Session", Snapshot]] = field(default_factory=list)
    ended: list[tuple["Session", "Ending"]] = field(default_factory=list)
    forgotten: dict[int, "Ending"] = field(default_factory=dict)
    """Endings of revoked sessions by number: for such a session only the ending is sent. May grow
    while the mail is being sent."""


class Outbox:
    """Messages for a caller. `limit`: bytes. Two steps may exceed the limit: the running step and
    the step made ahead. `notify` is called after each change of interest to the caller."""

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
        """Elements of the caller's sessions waiting for a step."""
        self.contexts_nbytes = 0
        """Bytes of contexts and snapshots of the caller's sessions without a ready state."""
        self.held: list[tuple[Rows, int]] = []
        """Rows of held sessions, and their `place`. The sessions have elements and wait until this
        outbox is emptied."""
        self.unread: list[Session] = []
        """Sessions with a snapshot due, held until this outbox is emptied."""
        self._receivers: WeakValueDictionary[int, Receiver] = WeakValueDictionary()
        """Receivers by the `id` of the selection, while in use by a session."""
        self._mail = Mail()
        self._forgotten: dict[int, Ending] = {}
        """The `forgotten` of the mail taken last."""
        self._size = 0
        self._refusals = 0
        """Number of endings in the mail of sessions that were never opened to the caller."""

    def receiver(self, selection: Selection) -> "Receiver":
        """Returns the receiver of a selection: the same object as long as a session uses it."""
        receiver = self._receivers.get(id(selection))
        if receiver is None:
            receiver = self._receivers[id(selection)] = Receiver(self, selection)
        return receiver

    @property
    def nbytes(self) -> int:
        """Bytes in memory, roughly."""
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
        """Withdraws all messages of a session except the ending, even from mail taken but not sent
        yet."""
        self._mail.forgotten[session.number] = self._forgotten[session.number] = ending

    def take_refusals(self) -> Mail:
        """Takes only the endings of sessions that ended before `Engine.found`. Such sessions have
        no other messages."""
        if not self._refusals:
            return Mail()
        refused = [each for each in self._mail.ended if each[0].awaited]
        self._mail.ended = [each for each in self._mail.ended if not each[0].awaited]
        self._size -= _TOLD_NBYTES * len(refused)
        self._refusals = 0
        return Mail(ended=refused)

    def take(self) -> Mail:
        """Takes all mail. The scheduler's `release` must follow, to release held sessions."""
        mail, self._mail, self._size = self._mail, Mail(), 0
        self._refusals = 0
        self._forgotten = mail.forgotten
        return mail


class Receiver:
    """An outbox with a selection: predictions for the same receiver are sent together."""

    __slots__ = ("__weakref__", "id", "outbox", "selection")

    def __init__(self, outbox: Outbox, selection: Selection) -> None:
        self.outbox = outbox
        self.selection = selection
        self.id = next(_ids)
        """Unique among all receivers."""
