"""What was typed into a session, and tickets from which to go back in it."""

from collections import deque
from dataclasses import dataclass

_TICKETS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """How to come to the position before the element that was typed last."""

    taken_back: str
    """That element."""
    ticket: bytes | None
    """Where to go on from; None: a new session."""
    again: str
    """What is to be pushed again after that."""


class History:
    """Text of one session by position, from the oldest ticket that is kept. Not thread-safe."""

    def __init__(self, tickets: int = _TICKETS) -> None:
        """`tickets`: how many are kept; older ones are forgotten, with the text before them."""
        # A session's beginning needs no ticket.
        self._tickets: deque[tuple[int, bytes | None]] = deque([(0, None)], maxlen=tickets)
        self._text = ""

    @property
    def position(self) -> int:
        """How many elements the session has."""
        return self._tickets[0][0] + len(self._text)

    def typed(self, text: str) -> None:
        """Elements were pushed."""
        self._text += text

    def keep(self, ticket: bytes) -> None:
        """A ticket of all that was typed."""
        start = self._tickets[0][0]
        self._tickets.append((self.position, ticket))
        self._text = self._text[self._tickets[0][0] - start :]

    def back(self) -> Return | None:
        """The way back before the last element; None if there is no element, or no ticket that is
        old enough. Changes nothing: `went_back` does."""
        if not self._text:
            return None
        start, last = self._tickets[0][0], self.position - 1
        position, ticket = next(each for each in reversed(self._tickets) if each[0] <= last)
        return Return(
            taken_back=self._text[-1],
            ticket=ticket,
            again=self._text[position - start : last - start],
        )

    def went_back(self) -> None:
        """The last element is not in the session any more."""
        self._text = self._text[:-1]
        while self._tickets[-1][0] > self.position:
            self._tickets.pop()
