"""Errors of sessions that ended unfinished, from the server's `Closed` or the RPC's error."""

from elman._core.session.operation import Failure
from elman._core.session.session import Session
from elman.errors import (
    AccessDenied,
    ElmanError,
    InvalidElement,
    InvalidRequest,
    ServerError,
    ServerOverloaded,
    SessionLost,
    SessionTaken,
    Unavailable,
)
from elman.v1 import inference_pb2 as pb

_PERMISSION_DENIED = 7
"""gRPC's number of the status."""


def lost_failure(error: ElmanError, session: Session, *, resuming: bool) -> Failure:
    """Error for an unfinished session at the end of the RPC.

    An opened session is lost if the connection or the server went away, or if no server resumes the
    session. A session not yet opened has lost no data, and raises the RPC's own error.
    """
    # With other credentials the session's ticket still works.
    denied = isinstance(error, AccessDenied) and bool(session.ticket)
    if session.opened and (resuming or denied or isinstance(error, Unavailable)):
        position, ticket = session.answered, session.ticket or None
        message = f"the session was lost after {position} answered elements: {error}"

        def lost() -> ElmanError:
            made = SessionLost(message, position=position, ticket=ticket)
            made.__cause__ = error
            return made

        return lost
    return failure_of(error)


def closed_failure(closed: pb.Closed, session: Session) -> Failure | None:
    """Error for a session closed by the server; None if the session finished as requested."""
    message, position = closed.message, closed.position
    opened, complete = session.opened, session.in_flight == 0
    match closed.reason:
        case pb.CLOSE_REASON_FINISHED if complete:
            return None
        case pb.CLOSE_REASON_FINISHED:
            return lambda: ServerError("the server finished a session with elements unanswered")
        case pb.CLOSE_REASON_INVALID_ELEMENT:
            return lambda: InvalidElement(message)
        case pb.CLOSE_REASON_INVALID_REQUEST | pb.CLOSE_REASON_TICKET_REJECTED:
            if closed.code == _PERMISSION_DENIED:
                return lambda: AccessDenied(message)
            return lambda: InvalidRequest(message)
        case pb.CLOSE_REASON_TAKEN_OVER:
            ticket, position = session.ticket or None, session.answered
            text = f"session {session.name!r}, at position {position}: {message}"
            return lambda: SessionTaken(text, position=position, ticket=ticket)
        case pb.CLOSE_REASON_OVERLOADED:
            seconds = (closed.retry_after_ms or 1000) / 1000
            return lambda: ServerOverloaded(message, retry_after=seconds)
        case (
            pb.CLOSE_REASON_SHUTDOWN
            | pb.CLOSE_REASON_UNAVAILABLE
            | pb.CLOSE_REASON_MOVED
            | pb.CLOSE_REASON_PARKED
        ) if not opened:
            return lambda: Unavailable(message)
        case pb.CLOSE_REASON_SHUTDOWN | pb.CLOSE_REASON_MOVED | pb.CLOSE_REASON_PARKED:
            ticket = session.ticket or None
            return lambda: SessionLost(message, position=position, ticket=ticket)
        case _:
            return lambda: ServerError(message or f"the session ended with code {closed.code}")


def failure_of(error: ElmanError) -> Failure:
    """Makes copies of `error`, each with a separate traceback."""

    def make() -> ElmanError:
        copy = type(error)(*error.args)
        copy.__dict__.update(error.__dict__)
        return copy

    return make
