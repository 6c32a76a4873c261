"""Elements on their way through a session, and their predictions, in order.

Bounded on both sides: what is in flight by the session's window, and what has come and is unread by
the same number, so that a slow reader stops the pushing. As pure as `elman._core.session`.
"""

from collections.abc import Iterator

from elman._core.mailbox import Mailbox, Run
from elman._core.session import Operation, Session
from elman._wire.codec import Payload
from elman._wire.outputs import Frame
from elman._wire.prediction import Prediction


class Pipeline:
    """Either carries a whole payload, given at once, or is fed element by element until `end`."""

    __slots__ = (
        "_elements",
        "_error",
        "_fed",
        "_mailbox",
        "_open",
        "_payload",
        "_reading",
        "_session",
    )

    def __init__(self, session: Session, payload: Payload | None = None) -> None:
        self._session = session
        self._payload = payload
        self._elements = 0 if payload is None else len(payload) // session.codec.unit
        self._fed = 0
        self._open = payload is None
        self._error: BaseException | None = None
        self._mailbox = Mailbox()
        # What `batch` has given out. Only its caller touches it, so that needs no lock.
        self._reading = Mailbox()

    @property
    def unread(self) -> int:
        return len(self._mailbox) + len(self._reading)

    # -------------------------------------------------------------------------------------------
    # For whoever has the elements

    def feed(self, payload: Payload) -> Operation[bool]:
        """Pushes one element when there is room for it; False if nobody reads any more."""
        session = self._session
        while self._open:
            session.check()
            if session.room and self.unread < session.window:
                session.put(payload, 1, self)
                self._fed += 1
                return True
            yield True
        return False

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more to feed; `error` is raised after the predictions of what was fed."""
        if self._open:
            self._open = False
            self._error = error
            self._session.wake()

    # -------------------------------------------------------------------------------------------
    # For whoever reads the predictions

    def batch(self) -> Operation[Iterator[Prediction] | None]:
        """Waits until some predictions have come; None after the last.

        The iterator gives the unread ones, and is to be used up before the next call.
        """
        if self._open:
            # What was given out is read, so there may be room for whoever waits to feed.
            self._session.wake()
        if not (yield from self._wait()):
            return None
        self._reading.merge(self._mailbox.take_runs())
        return self._reading.drain()

    def rest(self) -> Operation[list[Run]]:
        """Waits for all predictions."""
        runs: list[Run] = []
        while (yield from self._wait()):
            runs.extend(self._mailbox.take_runs())
        return runs

    def abandon(self) -> None:
        """Nobody reads any more: what is unread is left to the inbox, the rest is not pushed."""
        self._open = False
        self._stop()
        self._session.abandon(self)

    # -------------------------------------------------------------------------------------------
    # For the session

    def put(self, frame: Frame, row: int, count: int, position: int) -> None:
        self._mailbox.put(frame, row, count, position)

    def take_runs(self) -> list[Run]:
        return self._reading.take_runs() + self._mailbox.take_runs()

    def _wait(self) -> Operation[bool]:
        """Waits for a prediction; False if all have come and been read."""
        session = self._session
        if self._payload is not None and self._refill not in session.sources:
            session.sources.append(self._refill)
        while True:
            self._refill()
            if self._mailbox:
                return True
            if session.failure:
                raise session.failure()
            owed = self._mailbox.received < self._fed
            if not owed and not self._open and self._fed >= self._elements:
                if self._error:
                    raise self._error
                return False
            if not owed and (self._open or self._payload is not None):
                session.check()
            yield owed or self._payload is not None

    def _refill(self) -> None:
        """Pushes what fits, once half of the window is free: so in fewer, larger frames."""
        session = self._session
        if self._payload is None or session.closing:
            return
        if 2 * session.in_flight <= session.window and self.unread <= session.window:
            count = min(session.room, self._elements - self._fed)
            if count:
                unit = session.codec.unit
                part = self._payload[self._fed * unit : (self._fed + count) * unit]
                session.put(part, count, self)
                self._fed += count
            if self._fed == self._elements:
                self._stop()

    def _stop(self) -> None:
        """No more of the payload."""
        self._payload = None
        if self._refill in self._session.sources:
            self._session.sources.remove(self._refill)
