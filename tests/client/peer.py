"""The server's side of one Stream RPC, for tests of the core: no sockets, no threads, no clock.

The model echoes: output `echo` of a character is the character's code point. The test decides when
and how many elements the peer answers.
"""

from collections.abc import Mapping

import numpy as np

from elman._core.models import KnownModel
from elman._wire.codec import TextCodec
from elman._wire.model import Input, InputKind, Model, Output, OutputKind
from elman._wire.prediction import Prediction
from elman.v1 import inference_pb2 as pb

ALPHABET = "abcdefgh"
ECHO = Output(name="echo", kind=OutputKind.VALUES, dtype=np.dtype("<i4"), shape=(), labels=())
TWICE = Output(name="twice", kind=OutputKind.VALUES, dtype=np.dtype("<i8"), shape=(2,), labels=())
MODEL = Model(
    name="echo",
    version="3",
    fingerprint="c0ffee",
    description="",
    input=Input(
        kind=InputKind.TEXT,
        dtype=None,
        shape=(),
        size=len(ALPHABET),
        vocabulary=tuple(ALPHABET),
        accepts_unknown=False,
    ),
    outputs=(ECHO, TWICE),
    state_bytes=0,
)
KNOWN = KnownModel(MODEL, TextCodec(MODEL.name, MODEL.input))


def letters(predictions: list[Prediction]) -> str:
    """Elements echoed by the predictions."""
    return "".join(chr(prediction["echo"]) for prediction in predictions)


class Peer:
    """Takes frames and makes responses. Asserts that the client keeps to the protocol."""

    def __init__(self) -> None:
        self.unanswered: dict[int, str] = {}
        self.answered: dict[int, int] = {}
        self.closing: set[int] = set()
        self._outputs: dict[int, tuple[str, ...]] = {}
        self._last = 0
        self._begun = False

    def take(self, frame: pb.StreamRequest, window: int) -> pb.StreamResponse:
        """Opens the frame's sessions, and queues the frame's elements and closes."""
        frame = pb.StreamRequest.FromString(frame.SerializeToString())
        assert (frame.model, frame.version) == (("", "") if self._begun else ("echo", "3"))
        self._begun = True
        response = pb.StreamResponse()
        for opened in frame.opens:
            assert opened.session > self._last, "numbers grow"
            self._last = opened.session
            self.unanswered[opened.session] = ""
            self.answered[opened.session] = 0
            self._outputs[opened.session] = tuple(output.name for output in opened.outputs)
            response.opened.add(session=opened.session, id=str(opened.session), window=window)
        push = frame.push
        assert len(set(push.sessions)) == len(push.sessions), "each at most once in a push"
        if push.sessions:
            share = len(push.text) // len(push.sessions)
            counts = list(push.counts) or [share] * len(push.sessions)
            assert len(counts) == len(push.sessions)
            assert sum(counts) == len(push.text)
            assert not push.counts or len(set(counts)) > 1, "equal counts are left out"
            start = 0
            for number, count in zip(push.sessions, counts, strict=True):
                assert number in self.unanswered and number not in self.closing
                assert count > 0
                self.unanswered[number] += push.text[start : start + count]
                assert len(self.unanswered[number]) <= window, "windows are held"
                start += count
        for number in frame.closes:
            assert number in self.unanswered and number not in self.closing
            self.closing.add(number)
        return response

    def answer(self, counts: Mapping[int, int]) -> pb.StreamResponse:
        """Answers the next elements of sessions. Closes sessions that are due."""
        groups: dict[tuple[str, ...], list[tuple[int, str]]] = {}
        for number, count in counts.items():
            text = self.unanswered[number][:count]
            self.unanswered[number] = self.unanswered[number][count:]
            if text:
                groups.setdefault(self._outputs[number], []).append((number, text))
        response = pb.StreamResponse()
        for outputs, parts in groups.items():
            codes = [ord(letter) for _, text in parts for letter in text]
            values = {
                "echo": np.array(codes, "<i4").tobytes(),
                "twice": np.repeat(np.array(codes, "<i8"), 2).tobytes(),
            }
            response.predictions.add(
                sessions=[number for number, _ in parts],
                counts=[]
                if all(len(text) == 1 for _, text in parts)
                else [len(text) for _, text in parts],
                first_positions=[self.answered[number] for number, _ in parts],
                outputs=[pb.Values(values=values[name]) for name in outputs],
            )
            for number, text in parts:
                self.answered[number] += len(text)
        for number in counts:
            if number in self.closing and not self.unanswered[number]:
                response.closed.append(self.close(number, pb.CLOSE_REASON_FINISHED))
        return pb.StreamResponse.FromString(response.SerializeToString())

    def close(self, number: int, reason: pb.CloseReason.ValueType) -> pb.Closed:
        """Ends a session."""
        self.closing.discard(number)
        del self.unanswered[number]
        return pb.Closed(
            session=number,
            code=0 if reason == pb.CLOSE_REASON_FINISHED else 3,
            reason=reason,
            message="" if reason == pb.CLOSE_REASON_FINISHED else "as scripted",
            position=self.answered[number],
        )
