"""Frames of an open loop in flight."""

import asyncio
from collections import deque

LIMIT = 2
"""Limit of unanswered frames on a connection.

Elements due beyond the limit go out together after an answer, as from many users of a shared
client. A frame for each element would measure the growth of a message queue instead. Latency counts
from the due time, so waiting here is included.
"""


class Flight:
    """Frames in flight, by count of answered elements: sessions are answered in any order."""

    def __init__(self) -> None:
        self.answered = 0
        """Number of elements answered."""
        self._ends: deque[int] = deque()
        """Total of elements pushed up to each frame, oldest first."""
        self._change = asyncio.Event()

    @property
    def is_full(self) -> bool:
        return len(self._ends) >= LIMIT

    def start(self, pushed: int) -> None:
        """Records a new frame. `pushed`: elements pushed in all, this frame included."""
        self._ends.append(pushed)

    def land(self, answered: int) -> None:
        """Records the answers to `answered` more elements."""
        self.answered += answered
        while self._ends and self._ends[0] <= self.answered:
            self._ends.popleft()
        self._change.set()

    async def changed(self) -> None:
        """Waits for the next answers."""
        self._change.clear()
        await self._change.wait()
