"""A Stream RPC of a pool: channel, sessions, first answer and end. A shell moves the frames."""

from collections.abc import Callable
from typing import Any, Protocol

from elman._core.models import KnownModel
from elman._core.recovery.orphan import Orphan
from elman._core.rpc.multiplexer import Multiplexer
from elman._core.rpc.server_channels import ServerChannel
from elman._core.session.session import Session
from elman.errors import ElmanError


class RpcEvents(Protocol):
    """Receiver of an RPC's events."""

    def orphaned(self, rpc: "Rpc", session: Session, orphan: Orphan) -> bool:
        """Reports a session able to resume elsewhere. Returns False if the session is lost."""

    def succeeded(self) -> None:
        """Reports the first progress of any session of an RPC."""

    def progressed(self, session: Session) -> None:
        """Reports a session's progress: an answer new to the session."""

    def ended(self, rpc: "Rpc", error: ElmanError | None) -> None:
        """Reports an RPC's end, with the error if the RPC ended before its sessions."""


class Rpc:
    __slots__ = ("_events", "answered", "multiplexer", "over", "server", "server_channel")

    def __init__(
        self,
        known: KnownModel,
        server_channel: ServerChannel[Any],
        events: RpcEvents,
        *,
        max_frame_bytes: int,
        writable: Callable[[], None],
    ) -> None:
        """`server_channel` is leased. `writable` is the multiplexer's callback."""
        self.server_channel = server_channel
        self.server = server_channel.target
        """The server's target; after the first answer, the server's own name."""
        self.answered = False
        """Whether the server has sent an answer."""
        self.over = False
        """Whether the RPC has ended."""
        self._events = events
        self.multiplexer = Multiplexer(
            known,
            writable=writable,
            orphaned=lambda session, orphan: events.orphaned(self, session, orphan),
            succeeded=events.succeeded,
            progressed=events.progressed,
            max_frame_bytes=max_frame_bytes,
        )

    @property
    def open(self) -> bool:
        """Whether the RPC accepts more sessions."""
        multiplexer = self.multiplexer
        return not (multiplexer.finished or multiplexer.draining or self.server_channel.retired)

    def first_answer(self, server: str | None) -> None:
        """Records the first answer. `server`: the server's own name, if known."""
        self.answered = self.server_channel.worked = True
        self.server = server or self.server

    def end(self, error: ElmanError, *, final: bool = False) -> bool:
        """Ends the RPC: the remaining sessions become orphans or raise `error`.

        If `final`, no session becomes an orphan. Returns False if the RPC had ended before.
        """
        if self.over:
            return False
        self.over = True
        early = not self.multiplexer.finished
        self.multiplexer.fail(error, final=final)
        self._events.ended(self, error if early else None)
        return True
