"""The server's errors, independent of gRPC; `frontend.status` maps them to gRPC codes.

ServerError
├── ModelNotFound       no such model or version
├── ModelUnavailable    a version takes no sessions: not loaded yet, or unloaded
├── InvalidElement      an element, or a payload of elements, does not match the model
├── InvalidRequest      the model or the protocol does not support the request
├── Overloaded          no capacity for a session or a call; has the time of a retry
├── TicketRejected      a ticket can't be used; has the reason
│   ├── ForeignTicket   the ticket was issued to a different identity
│   └── SessionTaken    a different client has opened the ticket's named session
├── SessionHeld         a different server does not release a named session
├── StoreDown           the store of named sessions can't be used
├── ShuttingDown        the server takes no more work
├── SlowClient          a call's client does not read its answers
├── RequestTimeout      a call began, and its request did not arrive
├── AnswerTooLarge      the requested predictions exceed the message size
├── StepFailed          the runtime failed in a step
└── ModelLoadError      a model file can't be served

StartError, never sent to a client: the server can't start.
"""


class ServerError(Exception):
    """The base class of the server's errors. The message names the field, its value and the allowed
    values."""


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
    """The label of a refused session in the metrics."""

    def __init__(self, message: str, *, retry_after: float, reason: str = "overloaded") -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after
        """Seconds until a retry."""


class TicketRejected(ServerError):
    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """The label in the metrics."""


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
    """The server can't start. The message is one line."""
