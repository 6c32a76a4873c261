"""An RPC as a session sees it: the server's opening, and the receiver of pushes and requests."""

from dataclasses import dataclass
from typing import Protocol, TypeVar

from elman._core.session.operation import Failure

S = TypeVar("S", contravariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Answer of a server to the opening of a session."""

    id: str
    window: int
    position: int = 0
    ticket_every: int = 0


class Outbound(Protocol[S]):
    """Receiver of a session's pushes, ticket requests and close. `S` is the class of sessions."""

    def pushed(self, session: S) -> None:
        """Reports pending elements in a session without any before."""

    def closed(self, session: S) -> None:
        """Reports the session's close for pushes."""

    def ticket_requested(self, session: S) -> None:
        """Reports the session's request for a ticket."""

    def progressed(self, session: S) -> None:
        """Reports progress: the session has a new answer."""

    def give_up(self, session: S, failure: Failure) -> None:
        """Ends the session with `failure`."""


class _Ending(Protocol):
    def end(self, failure: Failure | None) -> None: ...


class _Nowhere:
    """Outbound of a session without an RPC. The session's next RPC reads pushes and requests
    later."""

    def pushed(self, session: object) -> None: ...

    def closed(self, session: object) -> None: ...

    def ticket_requested(self, session: object) -> None: ...

    def progressed(self, session: object) -> None: ...

    def give_up(self, session: _Ending, failure: Failure) -> None:
        session.end(failure)


NOWHERE = _Nowhere()
