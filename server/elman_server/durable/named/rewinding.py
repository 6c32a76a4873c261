"""The rule for tickets older than a named session's checkpoint.

For a named session, the checkpoint decides. After the loss of a server, a client reconnects with a
ticket older than the last checkpoint, and pushes the elements after the ticket again. So the client
reaches the checkpoint's position with the same state, and no element is lost. If the client does
not have those elements, the ticket would undo them, and is rejected.
"""

from dataclasses import dataclass

from elman_server.errors import TicketRejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A session's stored checkpoint."""

    position: int
    attachment: bytes
    """The attachment id of the checkpoint's client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """A request to resume with a ticket and a name."""

    position: int
    """The ticket's position."""
    attachment: bytes
    replay: int | None
    """How many elements after the ticket the client can push again; None if unknown."""

    @property
    def reach(self) -> int | None:
        """The last position within the client's reach; None if unknown."""
        return None if self.replay is None else self.position + self.replay

    def check(self, position: int) -> None:
        """Raises `TicketRejected` if `position`, once reached by the session, is beyond the
        client's reach."""
        if self.reach is not None and position > self.reach:
            raise TicketRejected(
                f"the ticket is of position {self.position}; the session with this name is at "
                f"{position}. Its name alone goes on there, the ticket alone opens a branch, and "
                "restart begins it anew",
                reason="stale",
            )

    def floor(self, kept: Checkpoint | None) -> int:
        """Returns the position before which snapshots must not be saved, because the stored
        checkpoint is ahead. Raises `TicketRejected`.

        A checkpoint of a different client is older than the present attachment. The store
        guarantees this order when it grants the claim.
        """
        if kept is None or kept.attachment != self.attachment or kept.position <= self.position:
            return 0
        self.check(kept.position)
        return kept.position
