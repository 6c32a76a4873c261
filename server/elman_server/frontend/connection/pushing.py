"""Pushes of one connection: queues elements, and ends sessions with invalid elements."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TypeGuard

import numpy as np

from elman_server.engine.arrays import Elements
from elman_server.engine.engine import Engine
from elman_server.engine.sessions.ending import Ending, EndReason
from elman_server.engine.sessions.session import Session
from elman_server.engine.sessions.session_index import SessionIndex
from elman_server.errors import InvalidElement, InvalidRequest
from elman_server.frontend.connection.frame import Frame, Payload, Push
from elman_server.frontend.connection.slices import Pause, PushSlice, sliced
from elman_server.model.elements import SLICE_ELEMENTS, Decoded
from elman_server.serving.served import ServedModel

_MANY = 8
"""Threshold: at this number of sessions in a push, handling all sessions at once is faster."""
_SHORT_ENTRIES = 1_024
"""Most entries of a push taken at once, without slices: what the SDK sends, where slices cost more
than the 8 ms at most of a push with nothing but refusals."""
_SLICE_ENTRIES = 256
"""Most entries in a slice of a longer push: some 2 ms if every entry is refused."""


class Pushing:
    def __init__(
        self,
        *,
        model: ServedModel,
        sessions: Mapping[int, Session],
        session_indexes: Sequence[SessionIndex],
        window: int,
        beyond_window: set[Session],
        refuse: Callable[[int], None],
    ) -> None:
        """`sessions` are the connection's sessions by number. Each of `session_indexes` holds the
        sessions of one outbox. Both may change. Sessions with more than `window` unanswered
        elements are added to `beyond_window`. `refuse` is called with the number of an unknown
        session."""
        self._codec = model.codec
        self._engine: Engine = model.engine
        self._sessions = sessions
        self._session_indexes = session_indexes
        self._window = window
        self._beyond_window = beyond_window
        self._refuse = refuse

    def is_short(self, frame: Frame) -> bool:
        """Whether a frame's push is taken at once."""
        push = frame.push
        return push is None or (
            len(push.numbers) <= _SHORT_ENTRIES
            and self._codec.count(frame.payload) <= SLICE_ELEMENTS
        )

    def take(self, push: Push, arrival: float) -> None:
        """Queues a push at once. Raises `InvalidRequest` for an invalid push. An invalid element
        ends its session instead."""
        numbers, elements = push.numbers, _checked(push)
        try:
            decoded = self._codec.decode(elements)
            counts = _shares(len(decoded.elements), len(numbers), push.counts)
        except InvalidElement as error:
            for number in numbers:
                self._close(number, error)
            return
        self._queue_all(numbers, counts, decoded, arrival)

    def slices(self, push: Push, arrival: float) -> Generator[Pause, None, None]:
        """Queues a push in slices, with a pause before each slice. Raises `InvalidRequest` like
        `take`."""
        numbers, elements = push.numbers, _checked(push)
        try:
            self._codec.check(elements)
            shares = _shares(self._codec.count(elements), len(numbers), push.counts)
        except InvalidElement as error:
            for number in numbers:
                yield Pause.ROOM
                self._close(number, error)
            return
        counts = np.array(shares, np.int64)
        slices = list(sliced(counts, elements=SLICE_ELEMENTS, entries=_SLICE_ENTRIES))
        left = self._codec.count(elements)
        self._engine.untaken += left
        try:
            invalid = yield from self._invalid(elements, slices)
            for part in slices:
                yield Pause.ROOM
                self._queue_slice(part, numbers, elements, invalid, arrival)
                taken = part.stop - part.start
                self._engine.untaken -= taken
                left -= taken
        finally:
            self._engine.untaken -= left

    def _invalid(
        self, elements: Payload, slices: Iterable[PushSlice]
    ) -> Generator[Pause, None, dict[int, tuple[int, str]]]:
        """Entries of a push with invalid elements: the offset of the first invalid element within
        the entry, and the reason. Computed before any element is queued, because a session gets
        either all elements of an entry or no element."""
        found: dict[int, tuple[int, str]] = {}
        before = 0
        for part in slices:
            yield Pause.TURN
            decoded = self._decode(elements, part)
            before = 0 if part.begins else before
            start = 0
            for entry, count in enumerate(part.counts, part.first):
                if decoded.invalid is None:
                    break
                own = decoded.invalid[start : start + count]
                if entry not in found and own.any():
                    offset = int(own.argmax())
                    found[entry] = (
                        offset + (before if entry == part.first else 0),
                        self._codec.explain(decoded, start + offset),
                    )
                start += count
            # Elements so far of the last entry, which may go on in the next slice.
            before = part.counts[-1] + (before if len(part.counts) == 1 else 0)
        return found

    def _queue_slice(
        self,
        part: PushSlice,
        numbers: Sequence[int],
        elements: Payload,
        invalid: Mapping[int, tuple[int, str]],
        arrival: float,
    ) -> None:
        own = numbers[part.first : part.first + len(part.counts)]
        decoded = self._decode(elements, part)
        if decoded.invalid is None and not invalid:
            self._queue_all(own, part.counts, decoded, arrival)
            return
        start = 0
        for entry, (number, count) in enumerate(zip(own, part.counts, strict=True), part.first):
            stop = start + count
            if entry not in invalid:
                self._push_one(number, decoded.elements[start:stop], arrival)
            elif entry > part.first or part.begins:
                self._close_at(number, *invalid[entry])
            start = stop

    def _decode(self, elements: Payload, part: PushSlice) -> Decoded:
        return self._codec.decode(self._codec.part(elements, part.start, part.stop))

    def _queue_all(
        self, numbers: Sequence[int], counts: Sequence[int], decoded: Decoded, arrival: float
    ) -> None:
        if decoded.invalid is None:
            if len(numbers) >= _MANY and self._push_many(numbers, counts, decoded, arrival):
                return
            sessions = [self._sessions.get(number) for number in numbers]
            if _all_take_elements(sessions):
                self._queue(sessions, counts, decoded.elements, arrival)
                return
        start = 0
        for number, count in zip(numbers, counts, strict=True):
            stop = start + count
            invalid = None if decoded.invalid is None else decoded.invalid[start:stop]
            if invalid is not None and invalid.any():
                offset = int(invalid.argmax())
                self._close_at(number, offset, self._codec.explain(decoded, start + offset))
            else:
                self._push_one(number, decoded.elements[start:stop], arrival)
            start = stop

    def _push_many(
        self, numbers: Sequence[int], counts: Sequence[int], decoded: Decoded, arrival: float
    ) -> bool:
        """Queues elements for many sessions at once. Returns False, with no element queued, if a
        session takes or gets no elements, or if the predictions can't be sent together."""
        shares = np.array(counts, np.int64)
        if np.count_nonzero(shares) < len(shares):
            return False
        wanted = np.array(numbers, np.int64)
        found = next(
            filter(None, (session_index.find(wanted) for session_index in self._session_indexes)),
            None,
        )
        if found is None:
            return False
        receiver, rows = found
        most = self._engine.push_rows(receiver, rows, shares, decoded.elements, arrival)
        if most > self._window:
            self._watch_windows(self._sessions[number] for number in numbers)
        return True

    def _push_one(self, number: int, elements: Elements, arrival: float) -> None:
        session = self._pushable(number)
        if session is not None:
            self._queue([session], [len(elements)], elements, arrival)

    def _close_at(self, number: int, offset: int, reason: str) -> None:
        """Ends a session because of an invalid element. `offset` is counted from the session's next
        element."""
        session = self._pushable(number)
        if session is not None:
            position = session.position + session.unanswered + offset
            self._end(session, f"element at position {position}: {reason}")

    def _close(self, number: int, error: InvalidElement) -> None:
        session = self._pushable(number)
        if session is not None:
            self._end(session, str(error))

    def _end(self, session: Session, message: str) -> None:
        self._engine.close(session, Ending(reason=EndReason.INVALID_ELEMENT, message=message))

    def _queue(
        self, sessions: Sequence[Session], counts: Sequence[int], elements: Elements, arrival: float
    ) -> None:
        most = self._engine.push(sessions, counts, elements, arrival)
        if most > self._window:
            self._watch_windows(sessions)

    def _watch_windows(self, sessions: Iterable[Session]) -> None:
        self._beyond_window.update(
            session for session in sessions if session.unanswered > self._window
        )

    def _pushable(self, number: int) -> Session | None:
        """Returns a session by number; None if the session takes no elements. Then the client gets
        an error, unless the server is ending the session: the client could not know yet."""
        session = self._sessions.get(number)
        if session is None:
            self._refuse(number)
            return None
        ending = session.ended or session.closing
        if ending is None:
            return session
        if ending.reason is EndReason.FINISHED and session.ended is None:
            self._engine.drop(
                session,
                Ending(
                    reason=EndReason.INVALID_REQUEST,
                    message=f"push to session {number} after its close",
                ),
            )
        return None


def _checked(push: Push) -> Payload:
    """Returns a push's elements. Raises `InvalidRequest` for an invalid push."""
    numbers = push.numbers
    if push.elements is None or not numbers:
        raise InvalidRequest(
            "a push has no elements; set `text` or `raw`"
            if numbers
            else "a push names no session in `sessions`"
        )
    if push.counts and len(push.counts) != len(numbers):
        raise InvalidRequest(
            f"a push has {len(push.counts)} counts for {len(numbers)} sessions; allowed are as "
            "many, or none"
        )
    return push.elements


def _shares(elements: int, sessions: int, counts: Sequence[int]) -> Sequence[int]:
    """Returns the number of elements for each session. Raises `InvalidElement` if the elements do
    not match the counts or, without counts, can't be divided equally."""
    if counts:
        total = sum(counts) if len(counts) < _MANY else int(np.sum(counts, dtype=np.int64))
        if total != elements:
            raise InvalidElement(f"{elements} elements came; the counts add up to {total}")
        return counts
    if elements % sessions:
        raise InvalidElement(
            f"{elements} elements came for {sessions} sessions; without counts, every session gets "
            "the same number"
        )
    return [elements // sessions] * sessions


def _all_take_elements(sessions: list[Session | None]) -> TypeGuard[list[Session]]:
    for session in sessions:
        if session is None or session.closing is not None or session.ended is not None:
            return False
    return True
