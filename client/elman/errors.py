"""Errors of the client, as a small tree.

    ElmanError
    ├── InvalidRequest (ValueError)       an option is not allowed, or an output does not exist
    │   └── InvalidElement                an element of the wrong type, shape or symbol
    ├── ModelNotFound (LookupError)       the model or its version does not exist
    ├── ServerOverloaded                  refused for now; retry after `retry_after` seconds
    ├── DeadlineExceeded (TimeoutError)   the server did not answer within `timeout`
    ├── Unavailable (ConnectionError)     the server cannot be reached; no data was lost
    ├── SessionLost (ConnectionError)     a session can't go on; `position`, `ticket`
    │   └── SessionTaken                  another client has opened the session by name
    ├── SessionClosed                     a stream was used after its close
    ├── ClientClosed                      a client was used after its close
    ├── ClientUnusable (RuntimeError)     a client was used in a forked process, or on another loop
    ├── AccessDenied                      the server refuses the client's credentials
    └── ServerError                       the server failed, or broke the protocol

All failures of servers and networks raise errors of this tree; gRPC's own errors never leave the
SDK.
"""

__all__ = [
    "AccessDenied",
    "ClientClosed",
    "ClientUnusable",
    "DeadlineExceeded",
    "ElmanError",
    "InvalidElement",
    "InvalidRequest",
    "ModelNotFound",
    "ServerError",
    "ServerOverloaded",
    "SessionClosed",
    "SessionLost",
    "SessionTaken",
    "Unavailable",
]


class ElmanError(Exception):
    """Base class of all errors of the client."""


class InvalidRequest(ElmanError, ValueError):
    """An option or a requested output that is not allowed.

    The message names the option, the value given and the values allowed.
    """


class InvalidElement(InvalidRequest):
    """An element invalid for the model.

    The message names the value given and the values allowed. The client raises the error before
    sending the element. If instead the server refuses an element, the element's stream ends, and
    the next use of the stream raises the error. Other streams go on.
    """


class ModelNotFound(ElmanError, LookupError):
    """The server has no such model, or no such version of the model."""


class ServerOverloaded(ElmanError):
    """The server has no room for another session now.

    `retry_after`: seconds to wait before the next try, as the server asks.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(ElmanError, TimeoutError):
    """The server did not answer a call within `timeout` seconds.

    The stream goes on: later predictions can still be read by iterating the stream.
    """


class Unavailable(ElmanError, ConnectionError):
    """The server cannot be reached, or refuses work because of a shutdown. No data was lost."""


class SessionLost(ElmanError, ConnectionError):
    """The connection broke or the server stopped, and no server resumed the session within
    `resume_timeout`.

    `position`: number of answered elements.
    `ticket`: the session's last ticket, or None. `client.stream(model, ticket=...)` resumes from
        the ticket, at an earlier position.
    """

    def __init__(self, message: str, *, position: int = 0, ticket: bytes | None = None) -> None:
        super().__init__(message)
        self.position = position
        self.ticket = ticket


class SessionTaken(SessionLost):
    """Another client has opened the named session and owns it now.

    Opening a stream by the same name takes the session back.
    """


class SessionClosed(ElmanError):
    """A stream was used for a push after the stream's close."""


class ClientClosed(ElmanError):
    """A client, or a stream of a client, was used after the client's close."""


class ClientUnusable(ElmanError, RuntimeError):
    """A client was used where it cannot work.

    Cases: in a process forked after `connect`; on an event loop other than the loop of `connect`;
    under gevent without gRPC's gevent patch. The message names the case and the remedy.
    """


class AccessDenied(ElmanError):
    """The server needs other credentials, or forbids the call with the given credentials."""


class ServerError(ElmanError):
    """The server failed, or broke the protocol. The server's logs say more."""
