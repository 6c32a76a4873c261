"""The elements of a session that are not behind its ticket yet: what is pushed again when the
session goes on from there."""

from collections import deque

from elman._wire.codec import Codec, Payload

_LOOSE = 64
"""Pushes that are kept one by one; more are joined, as each takes more memory than an element."""


class Replay:
    """Holds elements `start` to `stop - 1`, as payloads."""

    __slots__ = ("_blocks", "_codec", "_loose", "start", "stop")

    def __init__(self, codec: Codec, start: int = 0) -> None:
        self._codec = codec
        self._blocks: deque[Payload] = deque()
        self._loose: list[Payload] = []
        self.start = start
        self.stop = start

    def add(self, payload: Payload) -> None:
        """The next elements."""
        self._loose.append(payload)
        self.stop += len(payload) // self._codec.unit
        if len(self._loose) == _LOOSE:
            self._join()

    def forget(self, position: int) -> None:
        """Drops what is before a position, which is not beyond `stop`."""
        unit, blocks = self._codec.unit, self._blocks
        if self.start < position:
            self._join()
        while self.start < position:
            block = blocks.popleft()
            count = len(block) // unit
            drop = position - self.start
            if drop < count:
                blocks.appendleft(block[drop * unit :])
                count = drop
            self.start += count

    def take(self) -> list[Payload]:
        """All of it. It is empty then, and takes the same elements again."""
        taken = [*self._blocks, *self._loose]
        self._blocks.clear()
        self._loose.clear()
        self.stop = self.start
        return taken

    def _join(self) -> None:
        if self._loose:
            self._blocks.append(self._codec.join(self._loose))
            self._loose.clear()
