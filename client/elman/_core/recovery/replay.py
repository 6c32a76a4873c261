"""Elements since a session's last ticket, to be pushed again after a resume."""

from collections import deque

from elman._wire.codec import Codec, Payload

_LOOSE = 64
"""Payloads kept one by one. More are joined: each takes more memory than an element."""


class Replay:
    """Payloads of elements `start` to `stop - 1`."""

    __slots__ = ("_blocks", "_codec", "_loose", "start", "stop")

    def __init__(self, codec: Codec, start: int = 0) -> None:
        self._codec = codec
        self._blocks: deque[Payload] = deque()
        self._loose: list[Payload] = []
        self.start = start
        self.stop = start

    def add(self, payload: Payload) -> None:
        """Appends a payload."""
        self._loose.append(payload)
        self.stop += len(payload) // self._codec.unit
        if len(self._loose) == _LOOSE:
            self._join()

    def forget(self, position: int) -> None:
        """Drops the elements before `position`, which is at most `stop`."""
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
        """Removes and returns all payloads. The replay then accepts the same elements again."""
        taken = [*self._blocks, *self._loose]
        self._blocks.clear()
        self._loose.clear()
        self.stop = self.start
        return taken

    def _join(self) -> None:
        if self._loose:
            self._blocks.append(self._codec.join(self._loose))
            self._loose.clear()
