"""What can go wrong, as one small tree.

    ElmanError
    ├── InvalidRequest (ValueError)       an option that is not allowed, an output that there is not
    │   └── InvalidElement                an element of the wrong type, shape or symbol
    ├── ModelNotFound (LookupError)       no such model, or no such version of it
    ├── ServerOverloaded                  refused for now; `retry_after` seconds
    ├── DeadlineExceeded (TimeoutError)   the server did not answer within `timeout`
    ├── Unavailable (ConnectionError)     the server cannot be reached; nothing was lost
    ├── SessionLost (ConnectionError)     a session can't go on; `position`, `ticket`
    │   └── SessionTaken                  another client has opened it by its name
    ├── SessionClosed                     a stream was used after its close
    ├── ClientClosed                      a client was used after its close
    ├── ClientUnusable (RuntimeError)     a client was used in a forked process, on another loop
    ├── AccessDenied                      the server does not let this client do this
    └── ServerError                       the server failed, or did not keep to the protocol

Nothing else is raised for what a server or a network does; gRPC's own errors never leave the SDK.
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
    """The root of the tree."""


class InvalidRequest(ElmanError, ValueError):
    """An option or a requested output that is not allowed. The message names it, what came and what
    is allowed."""


class InvalidElement(InvalidRequest):
    """An element that does not fit the model. The message names what came and what is allowed.

    Raised before anything is sent; or by the next use of a stream whose element the server refused,
    which ends that stream and no other.
    """


class ModelNotFound(ElmanError, LookupError):
    """The server has no such model, or no such version of it."""


class ServerOverloaded(ElmanError):
    """The server has no room for another session now.

    `retry_after` is how many seconds it asks to wait before the next try.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(ElmanError, TimeoutError):
    """The server did not do within `timeout` seconds what a call waited for.

    A stream goes on: predictions that come later can still be read by iterating it.
    """


class Unavailable(ElmanError, ConnectionError):
    """The server cannot be reached, or refuses work because it is stopping. Nothing was lost."""


class SessionLost(ElmanError, ConnectionError):
    """The connection broke or the server stopped, and no server would go on with the session
    within `resume_timeout`.

    `position` is how many of its elements had been answered. `ticket` is the last one that it got,
    if any: `client.stream(model, ticket=...)` goes on from there, from an earlier position.
    """

    def __init__(self, message: str, *, position: int = 0, ticket: bytes | None = None) -> None:
        super().__init__(message)
        self.position = position
        self.ticket = ticket


class SessionTaken(SessionLost):
    """Another client has opened the named session, and has it now.

    A stream that is opened by the name again takes it back.
    """


class SessionClosed(ElmanError):
    """A stream was asked to push after its close."""


class ClientClosed(ElmanError):
    """A client, or a stream of it, was used after the client's close."""


class ClientUnusable(ElmanError, RuntimeError):
    """A client was used where it cannot work: in a process that was forked after `connect`, on
    another event loop than the one on which it was connected, or under gevent without gRPC's own
    patch. The message tells which, and what to do."""


class AccessDenied(ElmanError):
    """The server wants other credentials, or does not allow this with the given ones."""


class ServerError(ElmanError):
    """The server failed at this, or did not keep to the protocol. Its logs say more."""
