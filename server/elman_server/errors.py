"""What can go wrong in the server, in its own words; `transport.status` maps it to gRPC.

ServerError
├── ModelNotFound       no such model or version
├── ModelUnavailable    a version takes no sessions: it is not loaded yet, or was unloaded
├── InvalidElement      an element, or a payload of elements, does not fit the model
├── InvalidRequest      a request asks for what the model or the protocol does not have
├── Overloaded          no room for another session; says when to try again
├── TicketRejected      a ticket can't be used here, or not any more; says why
│   ├── ForeignTicket   it was issued to somebody else
│   └── SessionTaken    another client has opened the named session that it is of
├── SessionHeld         another server does not let go of a named session
├── StoreDown           what named sessions are kept in can't be used
├── ShuttingDown        the server takes no more work
├── SlowClient          a call's client does not read what is written to it
├── RequestTimeout      a call was begun, and what it asks for did not come
├── AnswerTooLarge      the predictions asked for do not fit into a message
├── StepFailed          the runtime failed in a step
└── ModelLoadError      a model file can't be served

StartError, of which no client ever hears: the server can't start.
"""


class ServerError(Exception):
    """The message names the field, what came and what is allowed."""


class ModelNotFound(ServerError):
    pass


class ModelUnavailable(ServerError):
    pass


class InvalidElement(ServerError):
    pass


class InvalidRequest(ServerError):
    pass


class Overloaded(ServerError):
    reason = "overloaded"
    """Of a session that was refused, in the metrics."""

    def __init__(self, message: str, *, retry_after: float, reason: str = "overloaded") -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after
        """Seconds."""


class TicketRejected(ServerError):
    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """In the metrics."""


class ForeignTicket(TicketRejected):
    pass


class SessionTaken(TicketRejected):
    def __init__(self, message: str) -> None:
        super().__init__(message, reason="fenced")


class SessionHeld(ServerError):
    pass


class StoreDown(ServerError):
    pass


class ShuttingDown(ServerError):
    reason = "shutdown"


class SlowClient(ServerError):
    pass


class RequestTimeout(ServerError):
    pass


class AnswerTooLarge(ServerError):
    pass


class StepFailed(ServerError):
    pass


class ModelLoadError(ServerError):
    pass


class StartError(Exception):
    """The server can't start; the message is one line."""
