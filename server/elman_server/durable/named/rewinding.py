"""Whether a ticket may take a named session back behind what is kept of it.

With a name, what is kept decides. A client that lost its server comes back with a ticket that is
older than the last checkpoint, and pushes again what came after the ticket: so it gets to the
checkpoint by itself, with the same state, and nothing is lost. A ticket without those elements
would undo them.
"""

from dataclasses import dataclass

from elman_server.errors import TicketRejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What is kept of a session."""

    position: int
    attachment: bytes
    """The id of the client's that had it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """A client that comes with a ticket and a name."""

    position: int
    """The ticket's."""
    attachment: bytes
    replay: int | None
    """How many elements after the ticket the client has; None if it does not say."""

    @property
    def reach(self) -> int | None:
        """The position that the client gets to by itself; None if it is not known."""
        return None if self.replay is None else self.position + self.replay

    def check(self, position: int) -> None:
        """Raises `TicketRejected` if the session has been at a position that the client does not
        get to by itself."""
        if self.reach is not None and position > self.reach:
            raise TicketRejected(
                f"the ticket is of position {self.position}; the session with this name is at "
                f"{position}. Its name alone goes on there, the ticket alone opens a branch, and "
                "restart begins it anew",
                reason="stale",
            )

    def floor(self, kept: Checkpoint | None) -> int:
        """The position before which nothing of the session is to be saved, as what is kept is
        further. Raises `TicketRejected`.

        What another client left is older than this one's attachment: the store has vouched for
        that when it gave the session out.
        """
        if kept is None or kept.attachment != self.attachment or kept.position <= self.position:
            return 0
        self.check(kept.position)
        return kept.position
