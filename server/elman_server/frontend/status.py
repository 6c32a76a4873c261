"""Translation of the server's errors and endings into gRPC's status codes, in a single place."""

from dataclasses import dataclass
from enum import IntEnum

from elman_server.engine.sessions.ending import EndReason
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
_PUSHBACK = "grpc-retry-pushback-ms"
"""Trailer for gRPC's own retries."""

Metadata = tuple[tuple[str, str], ...]


class Code(IntEnum):
    """Status codes of gRPC, by number."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    INTERNAL = 13
    UNAVAILABLE = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The end of a call."""

    code: Code
    message: str = ""
    trailers: Metadata = ()


OK = Status(code=Code.OK)
BUG = Status(code=Code.INTERNAL, message="internal error; the server's log has more")

_CODES: dict[type[ServerError], Code] = {
    ModelNotFound: Code.NOT_FOUND,
    ModelUnavailable: Code.UNAVAILABLE,
    InvalidElement: Code.INVALID_ARGUMENT,
    InvalidRequest: Code.INVALID_ARGUMENT,
    Overloaded: Code.RESOURCE_EXHAUSTED,
    AnswerTooLarge: Code.RESOURCE_EXHAUSTED,
    ShuttingDown: Code.UNAVAILABLE,
    # A client that reads again resumes from its tickets.
    SlowClient: Code.UNAVAILABLE,
    RequestTimeout: Code.DEADLINE_EXCEEDED,
    StepFailed: Code.INTERNAL,
    TicketRejected: Code.FAILED_PRECONDITION,
    ForeignTicket: Code.PERMISSION_DENIED,
    SessionTaken: Code.FAILED_PRECONDITION,
    SessionHeld: Code.UNAVAILABLE,
    StoreDown: Code.UNAVAILABLE,
}

_ENDINGS: dict[EndReason, Code] = {
    EndReason.FINISHED: Code.OK,
    EndReason.INVALID_ELEMENT: Code.INVALID_ARGUMENT,
    EndReason.INVALID_REQUEST: Code.INVALID_ARGUMENT,
    EndReason.STEP_FAILED: Code.INTERNAL,
    EndReason.SHUTDOWN: Code.UNAVAILABLE,
    EndReason.MOVED: Code.UNAVAILABLE,
    EndReason.PARKED: Code.UNAVAILABLE,
    EndReason.UNAVAILABLE: Code.UNAVAILABLE,
    EndReason.TAKEN_OVER: Code.FAILED_PRECONDITION,
    EndReason.TICKET_REJECTED: Code.FAILED_PRECONDITION,
    # Never sent: the RPC is gone.
    EndReason.CANCELLED: Code.CANCELLED,
}


def code(error: type[ServerError]) -> Code:
    return _CODES[error]


def ending_code(reason: EndReason) -> Code:
    return _ENDINGS[reason]


def status(error: ServerError) -> Status:
    """Returns the status of a call that ends with an error."""
    trailers: Metadata = ()
    if isinstance(error, Overloaded):
        trailers = ((_PUSHBACK, str(milliseconds(error.retry_after))),)
    return Status(code=code(type(error)), message=shown(str(error)), trailers=trailers)


def shown(text: str) -> str:
    """Shortens a message. Names from clients may have any length, and a status must fit into
    HTTP/2's headers."""
    return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}..."


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
