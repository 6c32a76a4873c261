"""How much of what is pushed again may be on its way.

A resume repeats what broke the RPC before, perhaps: a proxy that lets a megabyte through breaks it
after a megabyte each time. So resumed sessions push in pieces, ask for a ticket after each, and go
on when it has come; where even that breaks, in smaller pieces.
"""

from elman._core.session import Session

RESUME_BYTES = 256 * 1024
"""On their way at most, of all resumed sessions of an RPC together."""
_LEAST_BYTES = 2048


class ResumeWindow:
    """Bytes of the resumed sessions of one RPC of which no ticket has come yet."""

    __slots__ = ("_bytes", "_pieces", "_stuck")

    def __init__(self) -> None:
        self._pieces: dict[Session, tuple[int, int]] = {}
        """Of each session that waits for a ticket: its bytes, and the ticket's least position."""
        self._bytes = 0
        self._stuck = 0

    @property
    def room(self) -> int:
        """Bytes that may be sent; below 1 for none."""
        if not self._pieces:
            return self._limit
        return self._limit - self._bytes

    @property
    def _limit(self) -> int:
        return max(_LEAST_BYTES, RESUME_BYTES >> self._stuck)

    def enter(self, session: Session) -> None:
        """Has resumed here."""
        self._stuck = max(self._stuck, session.retries.stuck)

    def sent(self, session: Session, nbytes: int, position: int) -> None:
        """A piece, before `position`. A ticket of it was asked for."""
        self._pieces[session] = (nbytes, position)
        self._bytes += nbytes

    def settle(self, session: Session, position: int | None) -> bool:
        """A ticket has come; None: none will. Whether a piece is done with."""
        if session not in self._pieces:
            return False
        nbytes, least = self._pieces[session]
        if position is not None and position < least:
            return False
        del self._pieces[session]
        self._bytes -= nbytes
        if position is not None:
            self._stuck = max(0, self._stuck - 1)
        return True
