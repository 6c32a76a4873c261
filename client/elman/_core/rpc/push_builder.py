"""Elements of several sessions for one frame; each session is named once."""

from collections.abc import MutableSequence

from elman._core.session.session import Session
from elman._wire.codec import Codec, Payload
from elman.v1 import inference_pb2 as pb

SESSION_BYTES = 24
"""Largest size of a session's entry in a frame, in bytes: number, count and framing."""


class PushBuilder:
    __slots__ = ("_codec", "_counts", "_numbers", "_parts", "_width")

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._width = codec.width
        self._numbers: list[int] = []
        self._counts: list[int] = []
        self._parts: list[Payload] = []

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def add(self, session: Session, budget: int) -> int:
        """Adds a session's pending elements: up to `budget` bytes, or a single larger element.

        Returns the bytes added.
        """
        width = self._width
        count = session.buffer.take(budget // width if budget > width else 1, self._parts)
        if not count:
            return 0
        self._numbers.append(session.number)
        self._counts.append(count)
        return count * width + SESSION_BYTES

    def place(self, frame: pb.StreamRequest) -> None:
        counts = self._counts
        if not counts:
            return
        push = frame.push
        numbers: MutableSequence[int] = push.sessions
        numbers.extend(self._numbers)
        if counts.count(counts[0]) != len(counts):
            push.counts.extend(counts)
        self._codec.place(push, self._codec.join(self._parts))
