"""Translation of the server's errors into gRPC statuses, in a single place."""

from typing import NoReturn

import grpc

from elman.v1 import inference_pb2 as pb
from elman_server.engine.session import Ending, EndReason
from elman_server.errors import (
    AnswerTooLarge,
    ForeignTicket,
    InvalidElement,
    InvalidRequest,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
    RequestTimeout,
    ServerError,
    SessionHeld,
    SessionTaken,
    ShuttingDown,
    SlowClient,
    StepFailed,
    StoreDown,
    TicketRejected,
)

_MAX_MESSAGE = 500
"""Characters. gRPC sends up to 12 bytes for each, and peers accept 8 KiB of metadata."""

_CODES: dict[type[ServerError], grpc.StatusCode] = {
    ModelNotFound: grpc.StatusCode.NOT_FOUND,
    ModelUnavailable: grpc.StatusCode.UNAVAILABLE,
    InvalidElement: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    AnswerTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ShuttingDown: grpc.StatusCode.UNAVAILABLE,
    # A client that reads again resumes from its tickets.
    SlowClient: grpc.StatusCode.UNAVAILABLE,
    RequestTimeout: grpc.StatusCode.DEADLINE_EXCEEDED,
    StepFailed: grpc.StatusCode.INTERNAL,
    TicketRejected: grpc.StatusCode.FAILED_PRECONDITION,
    ForeignTicket: grpc.StatusCode.PERMISSION_DENIED,
    SessionTaken: grpc.StatusCode.FAILED_PRECONDITION,
    SessionHeld: grpc.StatusCode.UNAVAILABLE,
    StoreDown: grpc.StatusCode.UNAVAILABLE,
}

_REASONS: dict[EndReason, tuple[grpc.StatusCode, pb.CloseReason.ValueType]] = {
    EndReason.FINISHED: (grpc.StatusCode.OK, pb.CLOSE_REASON_FINISHED),
    EndReason.INVALID_ELEMENT: (
        grpc.StatusCode.INVALID_ARGUMENT,
        pb.CLOSE_REASON_INVALID_ELEMENT,
    ),
    EndReason.INVALID_REQUEST: (
        grpc.StatusCode.INVALID_ARGUMENT,
        pb.CLOSE_REASON_INVALID_REQUEST,
    ),
    EndReason.STEP_FAILED: (grpc.StatusCode.INTERNAL, pb.CLOSE_REASON_STEP_FAILED),
    EndReason.SHUTDOWN: (grpc.StatusCode.UNAVAILABLE, pb.CLOSE_REASON_SHUTDOWN),
    EndReason.MOVED: (grpc.StatusCode.UNAVAILABLE, pb.CLOSE_REASON_MOVED),
    EndReason.PARKED: (grpc.StatusCode.UNAVAILABLE, pb.CLOSE_REASON_PARKED),
    EndReason.UNAVAILABLE: (grpc.StatusCode.UNAVAILABLE, pb.CLOSE_REASON_UNAVAILABLE),
    EndReason.TAKEN_OVER: (grpc.StatusCode.FAILED_PRECONDITION, pb.CLOSE_REASON_TAKEN_OVER),
    EndReason.TICKET_REJECTED: (
        grpc.StatusCode.FAILED_PRECONDITION,
        pb.CLOSE_REASON_TICKET_REJECTED,
    ),
    # Never sent: the RPC is gone.
    EndReason.CANCELLED: (grpc.StatusCode.CANCELLED, pb.CLOSE_REASON_UNSPECIFIED),
}


def code(error: ServerError) -> grpc.StatusCode:
    return _CODES[type(error)]


def number(status: grpc.StatusCode) -> int:
    value: int = status.value[0]
    return value


async def abort(
    context: "grpc.aio.ServicerContext[object, object]", error: ServerError
) -> NoReturn:
    """Ends an RPC with an error's status, and with the pushback for gRPC's own retries."""
    trailers: tuple[tuple[str, str], ...] = ()
    if isinstance(error, Overloaded):
        trailers = (("grpc-retry-pushback-ms", str(milliseconds(error.retry_after))),)
    await context.abort(code(error), _shown(str(error)), trailers)


def closed(session: int, ending: Ending, position: int) -> pb.Closed:
    """Returns the message about a session's end."""
    status, reason = _REASONS[ending.reason]
    return pb.Closed(
        session=session,
        code=number(status),
        reason=reason,
        message=_shown(ending.message),
        position=position,
    )


def refused(session: int, error: ServerError) -> pb.Closed:
    """Returns the message about a refused session."""
    message = pb.Closed(session=session, code=number(code(error)), message=_shown(str(error)))
    match error:
        case Overloaded():
            message.reason = pb.CLOSE_REASON_OVERLOADED
            message.retry_after_ms = milliseconds(error.retry_after)
        case ShuttingDown() | ModelUnavailable():
            message.reason = pb.CLOSE_REASON_SHUTDOWN
        case TicketRejected():
            message.reason = pb.CLOSE_REASON_TICKET_REJECTED
        case _:
            message.reason = pb.CLOSE_REASON_INVALID_REQUEST
    return message


def _shown(text: str) -> str:
    """Shortens a message. Names from clients may have any length, and a status must fit into
    HTTP/2's headers."""
    return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}..."


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
