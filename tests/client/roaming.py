"""Servers that start and stop, for tests of the core: no sockets, no threads, no clock.

A session's state is the text pushed so far, and a ticket holds this text. A session resumed at a
wrong position therefore answers with wrong text.
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf

import numpy as np

from elman._core.recovery.backoff import Backoff
from elman._core.recovery.orphan import Orphan
from elman._core.recovery.recovery import Recovery
from elman._core.rpc.multiplexer import Multiplexer
from elman._core.session.session import Session
from elman._core.session.session_options import SessionOptions
from elman._wire.outputs import resolve
from elman.errors import ElmanError, Unavailable
from elman.v1 import inference_pb2 as pb
from tests.client.peer import KNOWN, MODEL

MOVED, SHUTDOWN = pb.CLOSE_REASON_MOVED, pb.CLOSE_REASON_SHUTDOWN
PARKED = pb.CLOSE_REASON_PARKED
OVERLOADED, REJECTED = pb.CLOSE_REASON_OVERLOADED, pb.CLOSE_REASON_TICKET_REJECTED
TICKET = b"ticket of "
_MESSAGE = "as scripted"


class Server:
    """Server of one RPC."""

    def __init__(self, *, window: int, ticket_every: int) -> None:
        self._window = window
        self._ticket_every = ticket_every
        self.texts: dict[int, str] = {}
        """Text of each open session, from the first element on."""
        self.answered: dict[int, int] = {}
        self._ticket_at: dict[int, int] = {}
        self._wanted: dict[int, int] = {}
        self._closing: set[int] = set()
        self._last = 0
        self.refuses: pb.CloseReason.ValueType | None = None
        """Reason to refuse every session; None to open sessions."""

    def take(self, frame: pb.StreamRequest) -> pb.StreamResponse:
        response = pb.StreamResponse()
        for message in frame.opens:
            number = message.session
            assert number > self._last, "numbers grow"
            self._last = number
            if self.refuses is not None:
                response.closed.add(session=number, code=14, reason=self.refuses, message=_MESSAGE)
                continue
            text = message.ticket.removeprefix(TICKET).decode()
            self.texts[number] = text
            self.answered[number] = len(text)
            response.opened.add(
                session=number,
                id=str(number),
                window=self._window,
                position=len(text),
                ticket_every_elements=self._ticket_every if message.ticket_every_elements else 0,
            )
            if response.opened[-1].ticket_every_elements:
                self._ticket_at[number] = len(text) + self._ticket_every
        start = 0
        numbers = frame.push.sessions
        counts = list(frame.push.counts) or [len(frame.push.text) // (len(numbers) or 1)] * len(
            numbers
        )
        assert len(set(numbers)) == len(numbers), "a push names each session once"
        for number, count in zip(numbers, counts, strict=True):
            assert 0 < number <= self._last, "a session is opened before it is pushed to"
            if number in self.texts:
                assert number not in self._closing
                self.texts[number] += frame.push.text[start : start + count]
            start += count
        for number in frame.tickets:
            if number in self.texts:
                self._wanted[number] = len(self.texts[number])
        self._closing |= set(frame.closes) & self.texts.keys()
        return response

    def answer(self, counts: Mapping[int, int]) -> pb.StreamResponse:
        """Answers the given number of further elements of each session."""
        response = pb.StreamResponse()
        for number, count in counts.items():
            first = self.answered[number]
            letters = self.texts[number][first : first + count]
            self.answered[number] += len(letters)
            if letters:
                response.predictions.add(
                    sessions=[number],
                    counts=[len(letters)],
                    first_positions=[first],
                    outputs=[pb.Values(values=np.array([*map(ord, letters)], "<i4").tobytes())],
                )
            position = self.answered[number]
            if position >= min(self._ticket_at.get(number, inf), self._wanted.get(number, inf)):
                self._issue(response, number)
            if number in self._closing and position == len(self.texts[number]):
                self._close(response, number, pb.CLOSE_REASON_FINISHED)
        return response

    def hand_over(
        self, numbers: Sequence[int], reason: pb.CloseReason.ValueType = MOVED
    ) -> pb.StreamResponse:
        response = self.answer({number: len(self.texts[number]) for number in numbers})
        for number in numbers:
            if number in self.texts:
                self._issue(response, number)
                self._close(response, number, reason)
        return response

    def _issue(self, response: pb.StreamResponse, number: int) -> None:
        position = self.answered[number]
        ticket = TICKET + self.texts[number][:position].encode()
        response.tickets.add(session=number, position=position, ticket=ticket)
        self._wanted.pop(number, None)
        if number in self._ticket_at:
            self._ticket_at[number] = position + self._ticket_every

    def _close(
        self, response: pb.StreamResponse, number: int, reason: pb.CloseReason.ValueType
    ) -> None:
        code = 0 if reason == pb.CLOSE_REASON_FINISHED else 14
        response.closed.add(
            session=number,
            code=code,
            reason=reason,
            message=_MESSAGE if code else "",
            position=self.answered[number],
        )
        self._closing.discard(number)
        del self.texts[number]


class Rig:
    """Sessions of a client on one model, and their servers, one after another."""

    def __init__(
        self,
        *,
        window: int = 8,
        ticket_every: int = 5,
        max_frame_bytes: int = 5000,
        resume_timeout: float = 60.0,
        servers: int = 1,
        uniform: Callable[[float, float], float] = lambda low, high: high,
    ) -> None:
        self.now = 100.0
        self.window = window
        self.ticket_every = ticket_every
        self._max_frame_bytes = max_frame_bytes
        self.recovery = Recovery(
            resume_timeout=resume_timeout,
            open_timeout=5.0,
            servers=servers,
            backoff=Backoff(uniform),
            resume=self._adopt,
        )
        self.name = "a server"
        """Name of the server that refuses sessions."""
        self.rpcs: list[tuple[Multiplexer, Server]] = []
        self.begin_rpc()

    def begin_rpc(self) -> None:
        """Begins another RPC, for new and resumed sessions."""
        multiplexer = Multiplexer(
            KNOWN,
            writable=lambda: None,
            orphaned=self._orphan,
            succeeded=self.recovery.succeeded,
            progressed=self.recovery.progressed,
            max_frame_bytes=self._max_frame_bytes,
        )
        server = Server(window=self.window, ticket_every=self.ticket_every)
        self.rpcs.append((multiplexer, server))

    @property
    def server(self) -> Server:
        """Server of the last RPC."""
        return self.rpcs[-1][1]

    def open(self, ticket: bytes | None = None) -> Session:
        layout = resolve(MODEL, "echo")
        options = SessionOptions(layout=layout, ticket=ticket, ticket_every=self.ticket_every)
        if self.rpcs[-1][0].finished:
            self.begin_rpc()
        return self.rpcs[-1][0].open(options, lambda: None)

    def write(self, rpc: int = -1) -> bool:
        """Sends one frame; False if there is none."""
        multiplexer, server = self.rpcs[rpc]
        frame = multiplexer.take()
        if frame is None:
            return False
        self.receive(server.take(pb.StreamRequest.FromString(frame.SerializeToString())), rpc)
        return True

    def receive(self, response: pb.StreamResponse, rpc: int = -1) -> None:
        self.rpcs[rpc][0].receive(pb.StreamResponse.FromString(response.SerializeToString()))

    def answer(self, count: int = 1 << 30, rpc: int = -1) -> None:
        server = self.rpcs[rpc][1]
        self.receive(server.answer(dict.fromkeys(list(server.texts), count)), rpc)

    def hand_over(self, rpc: int = -1, reason: pb.CloseReason.ValueType = MOVED) -> None:
        server = self.rpcs[rpc][1]
        self.receive(server.hand_over(list(server.texts), reason), rpc)

    def break_rpc(self, error: ElmanError | None = None, rpc: int = -1) -> None:
        self.rpcs[rpc][0].fail(error or Unavailable("cut"))
        self.rpcs[rpc][1].texts.clear()

    def mend(self) -> int:
        """Advances the clock until orphans are due, and resumes them. Returns their number."""
        self.now = max(self.now, min(self.recovery.next_at(), self.now + 1000))
        due = self.recovery.due(self.now)
        for session in due:
            self._adopt(session)
        return len(due)

    def settle(self) -> None:
        """Writes, answers and resumes until nothing changes."""
        moved = True
        while moved:
            moved = self.mend() > 0
            for rpc in range(len(self.rpcs)):
                while self.write(rpc):
                    moved = True
                self.answer(rpc=rpc)

    def _adopt(self, session: Session) -> None:
        multiplexer, _ = self.rpcs[-1]
        if multiplexer.finished or multiplexer.draining:
            self.begin_rpc()
        self.rpcs[-1][0].adopt(session)

    def _orphan(self, session: Session, orphan: Orphan) -> bool:
        return self.recovery.park(session) or self.recovery.add(
            session,
            self.now,
            refused_by=self.name if orphan.refused else None,
            after=orphan.after,
            crashed=orphan.crashed,
        )
