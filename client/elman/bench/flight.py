"""Which frames of an open loop are under way."""

import asyncio
from collections import deque

LIMIT = 2
"""Frames of a connection that may be unanswered. What becomes due beyond them goes out together
when one is answered, as from many users who share a client: a frame for each would measure how fast
a queue of messages grows. Latency counts from when it was due, so waiting here is not forgotten."""


class Flight:
    """Told by how many elements were answered: answers of different sessions come in any order."""

    def __init__(self) -> None:
        self.answered = 0
        """Elements."""
        self._ends: deque[int] = deque()
        """How many elements had been pushed with each frame, oldest first."""
        self._change = asyncio.Event()

    @property
    def is_full(self) -> bool:
        return len(self._ends) >= LIMIT

    def start(self, pushed: int) -> None:
        """A frame goes out; so many elements are then pushed in all."""
        self._ends.append(pushed)

    def land(self, answered: int) -> None:
        """So many more elements were answered."""
        self.answered += answered
        while self._ends and self._ends[0] <= self.answered:
            self._ends.popleft()
        self._change.set()

    async def changed(self) -> None:
        """Returns after the next answers."""
        self._change.clear()
        await self._change.wait()
