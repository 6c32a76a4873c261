"""Translation of answers from servers and gRPC into the errors of `elman.errors`.

All translation is in this module.
"""

from dataclasses import dataclass
from typing import Any, Protocol, cast

import grpc

from elman._core.session import Failure, Session
from elman.errors import (
    AccessDenied,
    DeadlineExceeded,
    ElmanError,
    InvalidElement,
    InvalidRequest,
    ModelNotFound,
    ServerError,
    ServerOverloaded,
    SessionLost,
    SessionTaken,
    Unavailable,
)
from elman.v1 import inference_pb2 as pb

PUSHBACK = "grpc-retry-pushback-ms"
"""Trailer with the milliseconds to wait before a retry, sent by a server."""


_SIZE_LIMIT = "max_message_bytes"
SERVER = "elman-server"
"""Metadata key of a server's name, sent before the first answer on a Stream.

A server gets a new name at each start. The name is independent of the address.
"""


_BODY_LIMIT = "http2 header with status: 413"
"""gRPC's error text after a proxy refused a request as too large."""
_BODY_LIMIT_MEANS = (
    "a proxy before the server refused a request as too large (HTTP status 413): raise its limit "
    "of a request's body (nginx: `client_max_body_size 0`)"
)


class RpcStatus(Protocol):
    """End of an RPC: the common interface of gRPC's synchronous and asynchronous errors."""

    def code(self) -> grpc.StatusCode | None: ...
    def details(self) -> str | None: ...
    def initial_metadata(self) -> Any: ...
    def trailing_metadata(self) -> Any: ...


def rpc_error(error: grpc.RpcError) -> ElmanError:
    """Converts an error of gRPC into an error of this SDK."""
    status = cast(RpcStatus, error)
    code = status.code() or grpc.StatusCode.UNKNOWN
    details = status.details() or code.name
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _tells_of_size(details):
        return InvalidRequest(
            f"{details}; the limit is max_message_bytes, of `elman serve` and of elman.connect"
        )
    if _BODY_LIMIT in details:
        return Unavailable(_BODY_LIMIT_MEANS)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ServerOverloaded(details, retry_after=(pushback(error) or 1000) / 1000)
    kinds = {
        grpc.StatusCode.NOT_FOUND: ModelNotFound,
        grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
        grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
        grpc.StatusCode.FAILED_PRECONDITION: InvalidRequest,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
        grpc.StatusCode.UNAVAILABLE: Unavailable,
        grpc.StatusCode.CANCELLED: Unavailable,
        grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
        grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
    }
    if code in kinds:
        return kinds[code](details)
    return ServerError(f"{code.name}: {details}")


def _tells_of_size(details: str) -> bool:
    """Whether an error means a message too large, not a busy server. A retry would not help.

    Recognises the texts of gRPC and of `elman_server`.
    """
    return "larger than max" in details or _SIZE_LIMIT in details


def stream_error(error: grpc.RpcError) -> ElmanError:
    """Converts the error at the end of a Stream RPC. If gRPC gave up, the server is unreachable."""
    mapped = rpc_error(error)
    # A Stream has no deadline of its own, but a proxy may have one.
    if isinstance(mapped, ServerError | ServerOverloaded | DeadlineExceeded):
        return Unavailable(str(mapped))
    return mapped


def is_unavailable(error: BaseException) -> bool:
    """Whether a retry may succeed, on another server or on the same server later.

    True also for a closed channel.
    """
    if not isinstance(error, grpc.RpcError):
        return True
    return cast(RpcStatus, error).code() in (
        grpc.StatusCode.UNAVAILABLE,
        # The client cancels no calls here. gRPC's server cancels calls it does not accept.
        grpc.StatusCode.CANCELLED,
    )


def is_refused(error: BaseException) -> bool:
    """Whether gRPC's server did not accept a call. The connection still works."""
    if not isinstance(error, grpc.RpcError):
        return False
    return cast(RpcStatus, error).code() is grpc.StatusCode.CANCELLED


def server_of(error: grpc.RpcError) -> str | None:
    """Name of the server in an error's initial metadata, or None."""
    return server_name(cast(RpcStatus, error).initial_metadata())


def server_name(metadata: Any) -> str | None:
    """Name of the server in initial metadata, or None."""
    for key, value in metadata or ():
        if key == SERVER:
            return str(value)
    return None


def is_too_large(error: grpc.RpcError) -> bool:
    """Whether a call failed because a message exceeds a limit of the server or of a proxy.

    An overloaded server sends the same status code together with a time to wait.
    """
    status = cast(RpcStatus, error)
    if _BODY_LIMIT in (status.details() or ""):
        return True
    exhausted = status.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return exhausted and pushback(error) is None


def pushback(error: grpc.RpcError) -> int | None:
    """Milliseconds to wait before a retry, or None if the server names no time."""
    for key, value in cast(RpcStatus, error).trailing_metadata() or ():
        if key == PUSHBACK and str(value).isdigit():
            return int(value)
    return None


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
    return again(error)


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
    leaving: bool = False
    """Whether new sessions should avoid the server too."""
    crashed: bool = False
    """Whether the RPC broke after the server had answered."""


def broken(error: ElmanError, session: Session, *, crashed: bool) -> Orphan | None:
    """Returns the orphan for a session after the RPC's end, or None if the session cannot go on."""
    if isinstance(error, Unavailable):
        return Orphan(error, leaving=True, crashed=crashed)
    # During an update, an old server without the model may be tried before a new server.
    if isinstance(error, ModelNotFound) and session.opened:
        return Orphan(error, refused=True, leaving=True)
    return None


def left(closed: pb.Closed, session: Session) -> Orphan | None:
    """Returns the orphan for a session closed by the server, or None if the session cannot go
    on."""
    message = closed.message
    match closed.reason:
        case pb.CLOSE_REASON_MOVED:
            return Orphan(Unavailable(message), after=0.0, leaving=True)
        case pb.CLOSE_REASON_PARKED:
            return Orphan(Unavailable(message), after=0.0, parked=True)
        case pb.CLOSE_REASON_SHUTDOWN:
            return Orphan(Unavailable(message), leaving=True)
        case pb.CLOSE_REASON_UNAVAILABLE:
            return Orphan(Unavailable(message))
        case pb.CLOSE_REASON_OVERLOADED if session.opened:
            return Orphan(Unavailable(message), after=(closed.retry_after_ms or 1000) / 1000)
        case pb.CLOSE_REASON_TICKET_REJECTED if session.opened:
            return Orphan(InvalidRequest(message), refused=True)
    return None


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
            if closed.code == grpc.StatusCode.PERMISSION_DENIED.value[0]:
                return lambda: AccessDenied(message)
            return lambda: InvalidRequest(message)
        case pb.CLOSE_REASON_TAKEN_OVER:
            ticket, position = session.ticket or None, session.answered
            told = f"session {session.name!r}, at position {position}: {message}"
            return lambda: SessionTaken(told, position=position, ticket=ticket)
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


def again(error: ElmanError) -> Failure:
    """Makes copies of `error`, each with a separate traceback."""

    def make() -> ElmanError:
        copy = type(error)(*error.args)
        copy.__dict__.update(error.__dict__)
        return copy

    return make
