"""Typed text of a session, with tickets for going back."""

from collections import deque
from dataclasses import dataclass

_TICKETS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """Steps to return to the position before the last element."""

    taken_back: str
    """The last element."""
    ticket: bytes | None
    """Ticket to resume from; None for a new session."""
    repeat: str
    """Text to push again after the ticket."""


class History:
    """Text of one session since the oldest ticket kept. Not thread-safe."""

    def __init__(self, tickets: int = _TICKETS) -> None:
        """`tickets`: number of tickets kept. Older tickets and the text before them are dropped."""
        # A session's beginning needs no ticket.
        self._tickets: deque[tuple[int, bytes | None]] = deque([(0, None)], maxlen=tickets)
        self._text = ""

    @property
    def position(self) -> int:
        """Number of elements in the session."""
        return self._tickets[0][0] + len(self._text)

    def typed(self, text: str) -> None:
        """Records pushed text."""
        self._text += text

    def keep(self, ticket: bytes) -> None:
        """Records a ticket for all typed text."""
        start = self._tickets[0][0]
        self._tickets.append((self.position, ticket))
        self._text = self._text[self._tickets[0][0] - start :]

    def back(self) -> Return | None:
        """Returns the steps to go back before the last element.

        Returns None without an element or without an old enough ticket. The history is unchanged
        until `went_back`.
        """
        if not self._text:
            return None
        start, last = self._tickets[0][0], self.position - 1
        position, ticket = next(each for each in reversed(self._tickets) if each[0] <= last)
        return Return(
            taken_back=self._text[-1],
            ticket=ticket,
            repeat=self._text[position - start : last - start],
        )

    def went_back(self) -> None:
        """Removes the last element, after going back."""
        self._text = self._text[:-1]
        while self._tickets[-1][0] > self.position:
            self._tickets.pop()
