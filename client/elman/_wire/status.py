"""Translation of gRPC's errors into the errors of `elman.errors`."""

from enum import Enum
from typing import Any, Protocol, cast

import grpc

from elman.errors import (
    AccessDenied,
    DeadlineExceeded,
    ElmanError,
    InvalidRequest,
    ModelNotFound,
    ServerError,
    ServerOverloaded,
    Unavailable,
)

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
    "a proxy before the server refused a request as too large (HTTP status 413): raise the proxy's "
    "limit of a request's body (nginx: `client_max_body_size 0`)"
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
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _is_about_size(details):
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


def _is_about_size(details: str) -> bool:
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


class CallFailure(Enum):
    """Kind of a failed call, for the choice of a retry."""

    FINAL = "final"
    """A retry would fail as well."""
    UNAVAILABLE = "unavailable"
    """Another server may answer, or the same server later."""
    REFUSED = "refused"
    """gRPC's server did not accept the call. The connection still works."""


def call_failure(error: BaseException) -> CallFailure:
    """Kind of a call's error. `ValueError` is gRPC's error for a closed channel."""
    if not isinstance(error, grpc.RpcError):
        return CallFailure.UNAVAILABLE
    code = cast(RpcStatus, error).code()
    if code is grpc.StatusCode.UNAVAILABLE:
        return CallFailure.UNAVAILABLE
    # The client cancels no calls here. gRPC's server cancels calls it does not accept.
    return CallFailure.REFUSED if code is grpc.StatusCode.CANCELLED else CallFailure.FINAL


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
