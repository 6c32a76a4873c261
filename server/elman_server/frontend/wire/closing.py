"""Messages about the end or the refusal of a session."""

from elman.v1 import inference_pb2 as pb
from elman_server.engine.sessions.ending import Ending, EndReason
from elman_server.errors import (
    ModelUnavailable,
    Overloaded,
    ServerError,
    ShuttingDown,
    TicketRejected,
)
from elman_server.frontend import status
from elman_server.frontend.connection.connection import Refusal

_REASONS: dict[EndReason, pb.CloseReason.ValueType] = {
    EndReason.FINISHED: pb.CLOSE_REASON_FINISHED,
    EndReason.INVALID_ELEMENT: pb.CLOSE_REASON_INVALID_ELEMENT,
    EndReason.INVALID_REQUEST: pb.CLOSE_REASON_INVALID_REQUEST,
    EndReason.STEP_FAILED: pb.CLOSE_REASON_STEP_FAILED,
    EndReason.SHUTDOWN: pb.CLOSE_REASON_SHUTDOWN,
    EndReason.MOVED: pb.CLOSE_REASON_MOVED,
    EndReason.PARKED: pb.CLOSE_REASON_PARKED,
    EndReason.UNAVAILABLE: pb.CLOSE_REASON_UNAVAILABLE,
    EndReason.TAKEN_OVER: pb.CLOSE_REASON_TAKEN_OVER,
    EndReason.TICKET_REJECTED: pb.CLOSE_REASON_TICKET_REJECTED,
    # Never sent: the RPC is gone.
    EndReason.CANCELLED: pb.CLOSE_REASON_UNSPECIFIED,
}

_REFUSALS: dict[type[ServerError], pb.CloseReason.ValueType] = {
    Overloaded: pb.CLOSE_REASON_OVERLOADED,
    ShuttingDown: pb.CLOSE_REASON_SHUTDOWN,
    ModelUnavailable: pb.CLOSE_REASON_SHUTDOWN,
    TicketRejected: pb.CLOSE_REASON_TICKET_REJECTED,
}


def closed(session: int, ending: Ending, position: int) -> pb.Closed:
    """Returns the message about a session's end."""
    return pb.Closed(
        session=session,
        code=status.ending_code(ending.reason),
        reason=_REASONS[ending.reason],
        message=status.shown(ending.message),
        position=position,
    )


def refused(refusal: Refusal) -> pb.Closed:
    """Returns the message about a refused session."""
    return pb.Closed(
        session=refusal.number,
        code=status.code(refusal.error),
        reason=next(
            (reason for error, reason in _REFUSALS.items() if issubclass(refusal.error, error)),
            pb.CLOSE_REASON_INVALID_REQUEST,
        ),
        message=refusal.message,
        retry_after_ms=status.milliseconds(refusal.retry_after),
    )
