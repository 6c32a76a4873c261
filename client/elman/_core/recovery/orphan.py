"""Reasons why a session has no server at the moment, and may resume on another."""

from dataclasses import dataclass

from elman._core.session.session import Session
from elman.errors import ElmanError, InvalidRequest, ModelNotFound, Unavailable
from elman.v1 import inference_pb2 as pb


@dataclass(frozen=True, slots=True)
class Orphan:
    """Reason why a session left the server and may resume on another server."""

    error: ElmanError
    refused: bool = False
    """Whether the server refused the session for good."""
    after: float | None = None
    """Seconds to wait before a retry, or None if the server named no time."""
    parked: bool = False
    """Whether the server parked the session until the next push, and then accepts the session
    again."""
    draining: bool = False
    """Whether new sessions should avoid the server too."""
    crashed: bool = False
    """Whether the RPC broke after the server had answered."""


def orphan_after_break(error: ElmanError, session: Session, *, crashed: bool) -> Orphan | None:
    """Returns the orphan for a session after the RPC's end, or None if the session cannot go on."""
    if isinstance(error, Unavailable):
        return Orphan(error, draining=True, crashed=crashed)
    # During an update, an old server without the model may be tried before a new server.
    if isinstance(error, ModelNotFound) and session.opened:
        return Orphan(error, refused=True, draining=True)
    return None


def orphan_after_close(closed: pb.Closed, session: Session) -> Orphan | None:
    """Returns the orphan for a session closed by the server, or None if the session cannot go
    on."""
    message = closed.message
    match closed.reason:
        case pb.CLOSE_REASON_MOVED:
            return Orphan(Unavailable(message), after=0.0, draining=True)
        case pb.CLOSE_REASON_PARKED:
            return Orphan(Unavailable(message), after=0.0, parked=True)
        case pb.CLOSE_REASON_SHUTDOWN:
            return Orphan(Unavailable(message), draining=True)
        case pb.CLOSE_REASON_UNAVAILABLE:
            return Orphan(Unavailable(message))
        case pb.CLOSE_REASON_OVERLOADED if session.opened:
            return Orphan(Unavailable(message), after=(closed.retry_after_ms or 1000) / 1000)
        case pb.CLOSE_REASON_TICKET_REJECTED if session.opened:
            return Orphan(InvalidRequest(message), refused=True)
    return None
