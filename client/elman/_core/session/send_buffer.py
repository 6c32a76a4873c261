"""Elements of a session to push, and elements to push again after a resume."""

from collections import deque

from elman._core.recovery.replay import Replay
from elman._wire.codec import Codec, Payload


class SendBuffer:
    __slots__ = ("_codec", "_payloads", "_replay", "pending")

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._payloads: deque[Payload] = deque()
        self._replay = Replay(codec)
        self.pending = 0
        """Number of elements to push."""

    @property
    def start(self) -> int:
        """Position of the first element that can be pushed again."""
        return self._replay.start

    def start_at(self, position: int) -> None:
        """Sets the position of the first element."""
        self._replay = Replay(self._codec, position)

    def put(self, payload: Payload, count: int) -> None:
        """Appends `count` elements to push."""
        self._payloads.append(payload)
        self.pending += count

    def take(self, limit: int, parts: list[Payload], *, keep: bool) -> int:
        """Moves up to `limit` elements into `parts`. Returns the number moved.

        `keep`: whether to keep the elements, to be pushed again.
        """
        first = len(parts)
        if self.pending <= limit:
            taken = self.pending
            parts.extend(self._payloads)
            self._payloads.clear()
        else:
            taken = 0
            unit = self._codec.unit
            while taken < limit:
                part = self._payloads.popleft()
                count = len(part) // unit
                if taken + count > limit:
                    count = limit - taken
                    self._payloads.appendleft(part[count * unit :])
                    part = part[: count * unit]
                parts.append(part)
                taken += count
        self.pending -= taken
        if keep:
            for i in range(first, len(parts)):
                self._replay.add(parts[i])
        return taken

    def forget(self, position: int) -> None:
        """Drops the kept elements before `position`."""
        self._replay.forget(position)

    def rewind(self) -> None:
        """Makes all kept elements elements to push, before the others."""
        self.pending += self._replay.stop - self._replay.start
        self._payloads.extendleft(reversed(self._replay.take()))

    def clear(self) -> None:
        """Drops all elements."""
        self._payloads.clear()
        self.pending = 0
        self._replay.take()
