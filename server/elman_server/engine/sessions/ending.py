"""Endings of sessions, and their reasons."""

from dataclasses import dataclass
from enum import StrEnum


class EndReason(StrEnum):
    """Reason for a session's end. Each session ends with exactly one reason."""

    FINISHED = "finished"
    """The client closed the session, and all pushed elements were answered."""
    INVALID_ELEMENT = "invalid_element"
    INVALID_REQUEST = "invalid_request"
    STEP_FAILED = "step_failed"
    SHUTDOWN = "shutdown"
    MOVED = "moved"
    """All pushed elements were answered, and the client can resume the session elsewhere."""
    PARKED = "parked"
    """All pushed elements were answered, and no element came for long; the client can resume."""
    TAKEN_OVER = "taken_over"
    """Another client opened the session by its name."""
    UNAVAILABLE = "unavailable"
    """The named session is not available now."""
    TICKET_REJECTED = "ticket_rejected"
    """The named session's checkpoint is not usable here."""
    CANCELLED = "cancelled"
    """The RPC was cancelled, timed out or broke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    reason: EndReason
    message: str = ""
    """Text for people; empty for FINISHED and CANCELLED."""

    @property
    def hands_over(self) -> bool:
        """Whether the caller gets the session's last snapshot before the end."""
        return self.reason in (EndReason.MOVED, EndReason.PARKED)

    @property
    def without_snapshot(self) -> "Ending":
        """The ending to use without a last snapshot: the session can't be resumed."""
        if self.hands_over:
            return Ending(reason=EndReason.SHUTDOWN, message=self.message)
        return self


FINISHED = Ending(reason=EndReason.FINISHED)
CANCELLED = Ending(reason=EndReason.CANCELLED)
