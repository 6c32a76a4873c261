"""The queues of sessions: what waits behind that with which they have lined up.

Most sessions have none most of the time, so an empty one takes no memory.
"""

from collections import deque

from elman_server.engine.arrivals import Share


class Queues:
    """By row of the session table."""

    __slots__ = ("_shares",)

    def __init__(self) -> None:
        self._shares: dict[int, deque[Share]] = {}

    def __contains__(self, row: int) -> bool:
        """Whether something waits."""
        return row in self._shares

    def append(self, row: int, share: Share) -> None:
        queue = self._shares.get(row)
        if queue is None:
            queue = self._shares[row] = deque()
        queue.append(share)

    def take(self, row: int, count: int) -> list[Share]:
        """The first `count` elements, which are there."""
        queue = self._shares[row]
        taken: list[Share] = []
        while count:
            arrival, start, stop = queue[0]
            if stop - start <= count:
                taken.append(queue.popleft())
                count -= stop - start
            else:
                taken.append((arrival, start, start + count))
                queue[0] = arrival, start + count, stop
                break
        if not queue:
            del self._shares[row]
        return taken

    def clear(self, row: int) -> None:
        self._shares.pop(row, None)
