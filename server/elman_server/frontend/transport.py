"""The port to a transport: what a transport hands over for a call, and what a transport takes back.

A transport accepts calls of registered methods and runs `Method.serve` in a task for each call. It
cancels the task when the call is cancelled, exceeds its deadline, or loses its connection, and ends
the call with the returned status. All methods, including unary methods, are streams of bytes: the
wire format is the same.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from elman_server.frontend.caller import Caller
from elman_server.frontend.status import Metadata, Status


class Gone(Exception):
    """The call ended before the write."""


class Call(Protocol):
    """One call of a method."""

    @property
    def caller(self) -> Caller:
        """The identity and the address behind the call."""

    async def start(self, metadata: Metadata) -> None:
        """Sends the initial metadata at once. Raises `Gone`."""

    async def read(self) -> bytes | None:
        """Returns the next message; None once the client has half-closed. A call that is not read
        holds the client back: the transport buffers a limited number of bytes."""

    async def write(self, message: bytes) -> None:
        """Writes a message. Returns when the transport has room for the next. Raises `Gone`."""

    def cut(self, *, reason: str, why: str) -> None:
        """Closes the call's connection soon, with all calls on the connection."""


Serve = Callable[[Call], Awaitable[Status]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method of a service. `serve` returns the call's status, or raises `CancelledError`."""

    service: str
    """The service's full name."""
    name: str
    serve: Serve


class Transport(Protocol):
    """A port of the network."""

    async def start(self, methods: Sequence[Method]) -> int:
        """Serves the methods and returns the port's number. Raises `RuntimeError` if the port can't
        be bound."""

    async def stop(self, grace: float) -> None:
        """Accepts no more calls, waits for calls to end, and cancels the rest after `grace`
        seconds."""
