"""Mail: the engine's messages for a caller, as plain events."""

from dataclasses import dataclass, field

from elman_server.engine.outboxes.delivery import Delivery
from elman_server.engine.sessions.ending import Ending
from elman_server.engine.sessions.snapshot import Cadence, Keeping, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A session is open."""

    number: int
    """The caller's number for the session."""
    id: str
    first_position: int
    cadence: Cadence | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotTaken:
    """A session's snapshot is ready."""

    number: int
    snapshot: Snapshot
    keeping: Keeping | None = None
    """Destination of the session's checkpoints, for a named session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A session has ended."""

    number: int
    ending: Ending
    position: int
    """Elements answered."""
    awaited: bool = False
    """Whether the session ended during the lookup of its first state, so before `Opened`."""


@dataclass(slots=True)
class Mail:
    """Contents of an outbox, in sending order: opened, predictions, snapshots, ended."""

    opened: list[Opened] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    snapshots: list[SnapshotTaken] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    forgotten: dict[int, Ending] = field(default_factory=dict)
    """Endings of revoked sessions by number: for such a session only the ending is sent. May grow
    while the mail is being sent."""
