"""Limit on repeated elements in flight after a resume.

A resume may repeat the cause of the broken RPC: a proxy with a limit of a megabyte breaks every RPC
after a megabyte. Resumed sessions therefore push in pieces, request a ticket after each piece, and
continue once the ticket arrives. If an RPC breaks even so, the pieces become smaller.
"""

from elman._core.session.session import Session

RESUME_BYTES = 256 * 1024
"""Limit of bytes in flight, for all resumed sessions of an RPC together."""
_LEAST_BYTES = 2048


class ResumeWindow:
    """Bytes sent by the resumed sessions of an RPC and not yet covered by a ticket."""

    __slots__ = ("_bytes", "_pieces", "_stuck")

    def __init__(self) -> None:
        self._pieces: dict[Session, tuple[int, int]] = {}
        """Bytes in flight and the awaited ticket's least position, by session."""
        self._bytes = 0
        self._stuck = 0

    @property
    def room(self) -> int:
        """Bytes allowed now; below 1 for none."""
        if not self._pieces:
            return self._limit
        return self._limit - self._bytes

    @property
    def _limit(self) -> int:
        return max(_LEAST_BYTES, RESUME_BYTES >> self._stuck)

    def enter(self, session: Session) -> None:
        """Adjusts the limit to a session resumed on the RPC."""
        self._stuck = max(self._stuck, session.retries.stuck)

    def sent(self, session: Session, nbytes: int, position: int) -> None:
        """Records a piece with elements before `position`, followed by a ticket request."""
        self._pieces[session] = (nbytes, position)
        self._bytes += nbytes

    def settle(self, session: Session, position: int | None) -> bool:
        """Removes a session's piece once covered by a ticket. Returns whether a piece was removed.

        `position`: the ticket's position, or None if no ticket will come.
        """
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
