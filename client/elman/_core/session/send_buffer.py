"""Elements of a session to push, and elements to push again after a resume."""

from collections import deque

from elman._core.recovery.replay import Replay
from elman._wire.codec import Codec, Payload


class SendBuffer:
    __slots__ = ("_codec", "_payloads", "_replay", "keeps", "pending")

    def __init__(self, codec: Codec, *, keeps: bool) -> None:
        self._codec = codec
        self._payloads: deque[Payload] = deque()
        self._replay = Replay(codec)
        self.pending = 0
        """Number of elements to push."""
        self.keeps = keeps
        """Whether elements taken are kept, to be pushed again."""

    @property
    def start(self) -> int:
        """Position of the first element that can be pushed again."""
        return self._replay.start

    def start_at(self, position: int) -> None:
        """Sets the position of the first element."""
        self._replay = Replay(self._codec, position)

    def put(self, payload: Payload, count: int) -> int:
        """Appends `count` elements to push. Returns the number of elements to push."""
        self._payloads.append(payload)
        self.pending += count
        return self.pending

    def take(self, limit: int, parts: list[Payload]) -> int:
        """Moves up to `limit` elements into `parts`. Returns the number moved."""
        payloads = self._payloads
        if self.pending <= limit:
            taken = self.pending
            self.pending = 0
            parts.extend(payloads)
            if self.keeps:
                for part in payloads:
                    self._replay.add(part)
            payloads.clear()
            return taken
        taken = 0
        unit = self._codec.unit
        while taken < limit:
            part = payloads.popleft()
            count = len(part) // unit
            if taken + count > limit:
                count = limit - taken
                payloads.appendleft(part[count * unit :])
                part = part[: count * unit]
            parts.append(part)
            if self.keeps:
                self._replay.add(part)
            taken += count
        self.pending -= taken
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
