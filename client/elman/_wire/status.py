"""The one place where what a server or gRPC says becomes an error of `elman.errors`."""

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
"""The trailer in which a server says how many milliseconds to wait before a retry."""


_SIZE_LIMIT = "max_message_bytes"
SERVER = "elman-server"
"""What a server calls itself, before its first answer on a Stream: another name each time that one
is started, wherever it is reached."""


_BODY_LIMIT = "http2 header with status: 413"
"""What gRPC says when a proxy finds a request too large."""
_BODY_LIMIT_MEANS = (
    "a proxy before the server refused a request as too large (HTTP status 413): raise its limit "
    "of a request's body (nginx: `client_max_body_size 0`)"
)


class RpcStatus(Protocol):
    """How an RPC ended: what gRPC's synchronous and asynchronous errors have in common."""

    def code(self) -> grpc.StatusCode | None: ...
    def details(self) -> str | None: ...
    def initial_metadata(self) -> Any: ...
    def trailing_metadata(self) -> Any: ...


def rpc_error(error: grpc.RpcError) -> ElmanError:
    """What gRPC raised, as an error of this SDK."""
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
    """Whether it is a message that was too large, and not the server that was too busy: in gRPC's
    own words, or in those of `elman_server`. To try again would not help."""
    return "larger than max" in details or _SIZE_LIMIT in details


def stream_error(error: grpc.RpcError) -> ElmanError:
    """How an RPC of sessions ended: where gRPC itself gave up, the server is out of reach."""
    mapped = rpc_error(error)
    # It has no deadline of its own: a proxy's may be over.
    if isinstance(mapped, ServerError | ServerOverloaded | DeadlineExceeded):
        return Unavailable(str(mapped))
    return mapped


def is_unavailable(error: BaseException) -> bool:
    """Whether another server, or the same one later, may do what this one could not; so also if a
    channel is closed."""
    if not isinstance(error, grpc.RpcError):
        return True
    return cast(RpcStatus, error).code() in (
        grpc.StatusCode.UNAVAILABLE,
        # Nobody here cancels a call: gRPC's server does, of those that it does not take in.
        grpc.StatusCode.CANCELLED,
    )


def is_refused(error: BaseException) -> bool:
    """Whether gRPC's server did not take a call in. Its connection is good."""
    if not isinstance(error, grpc.RpcError):
        return False
    return cast(RpcStatus, error).code() is grpc.StatusCode.CANCELLED


def server_of(error: grpc.RpcError) -> str | None:
    """Which server it was that said so, if it was one."""
    return server_name(cast(RpcStatus, error).initial_metadata())


def server_name(metadata: Any) -> str | None:
    """A server's name for itself, in what comes before its first answer."""
    for key, value in metadata or ():
        if key == SERVER:
            return str(value)
    return None


def is_too_large(error: grpc.RpcError) -> bool:
    """Whether a call failed because a message would pass a limit of the server or of a proxy, not
    for want of room: then the server names no time to try again."""
    status = cast(RpcStatus, error)
    if _BODY_LIMIT in (status.details() or ""):
        return True
    exhausted = status.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return exhausted and pushback(error) is None


def pushback(error: grpc.RpcError) -> int | None:
    """Milliseconds that the server asks to wait, if it does."""
    for key, value in cast(RpcStatus, error).trailing_metadata() or ():
        if key == PUSHBACK and str(value).isdigit():
            return int(value)
    return None


def lost_failure(error: ElmanError, session: Session, *, resuming: bool) -> Failure:
    """What the end of an RPC means to a session on it that had not ended.

    An open session is lost, if the connection or the server went away, or nobody goes on with it;
    one that never opened has lost nothing, so it meets the RPC's own error.
    """
    denied = isinstance(error, AccessDenied) and bool(session.ticket)  # good with other credentials
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
    """Why a session that its server does not serve any more may go on with another."""

    error: ElmanError
    refused: bool = False
    """Whether the server would not have it, now or later."""
    after: float | None = None
    """Seconds to wait, if it said."""
    parked: bool = False
    """Whether the same server would have it back, and not before there is something to push."""
    leaving: bool = False
    """Whether its server is of no use to others either."""
    crashed: bool = False
    """Whether the server had answered, and broke off."""


def broken(error: ElmanError, session: Session, *, crashed: bool) -> Orphan | None:
    """What the end of an RPC is to a session on it."""
    if isinstance(error, Unavailable):
        return Orphan(error, leaving=True, crashed=crashed)
    # A server that is not up to date may come before one that is.
    if isinstance(error, ModelNotFound) and session.opened:
        return Orphan(error, refused=True, leaving=True)
    return None


def left(closed: pb.Closed, session: Session) -> Orphan | None:
    """What its server's word is to a session."""
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
    """Why the server closed a session; None if it was finished, as the client asked."""
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
    """Makes errors like `error`, each with a traceback of its own."""

    def make() -> ElmanError:
        copy = type(error)(*error.args)
        copy.__dict__.update(error.__dict__)
        return copy

    return make
