"""An outbox: the engine's messages for a caller, and figures common to the caller's sessions.

The engine fills the outbox, the caller's transport empties it. The outbox bounds the memory used
for a caller that does not read: while the outbox is full, the scheduler holds the caller's sessions
back.
"""

from collections.abc import Callable
from itertools import count
from weakref import WeakValueDictionary

from elman_server.engine.outboxes.delivery import Delivery, Selection
from elman_server.engine.outboxes.mail import Ended, Mail, Opened, SnapshotTaken
from elman_server.engine.sessions.ending import Ending

_ids = count(1)

_EVENT_NBYTES = 128
"""Bytes in memory of an event, roughly."""


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
        "limit",
        "notify",
        "pending",
    )

    def __init__(self, *, limit: float, notify: Callable[[], None]) -> None:
        self.limit = limit
        self.notify = notify
        self.pending = 0
        """Elements of the caller's sessions waiting for a step."""
        self.contexts_nbytes = 0
        """Bytes of contexts and snapshots of the caller's sessions without a ready state."""
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

    def opened(self, event: Opened) -> None:
        self._mail.opened.append(event)
        self._size += _EVENT_NBYTES

    def deliver(self, delivery: Delivery) -> None:
        self._mail.deliveries.append(delivery)
        self._size += delivery.held_nbytes

    def snapshot(self, event: SnapshotTaken) -> None:
        self._mail.snapshots.append(event)
        self._size += _EVENT_NBYTES + event.snapshot.nbytes

    def ended(self, event: Ended) -> None:
        self._mail.ended.append(event)
        self._refusals += event.awaited
        self._size += _EVENT_NBYTES

    def forget(self, number: int, ending: Ending) -> None:
        """Withdraws all messages of a session except the ending, even from mail taken but not sent
        yet."""
        self._mail.forgotten[number] = self._forgotten[number] = ending

    def take_refusals(self) -> Mail:
        """Takes only the endings of sessions that ended before `Engine.found`. Such sessions have
        no other messages."""
        if not self._refusals:
            return Mail()
        refused = [event for event in self._mail.ended if event.awaited]
        self._mail.ended = [event for event in self._mail.ended if not event.awaited]
        self._size -= _EVENT_NBYTES * len(refused)
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
