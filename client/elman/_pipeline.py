"""Elements on their way through a session, and their predictions, in order.

Bounded on both sides: what is in flight by the session's window, and what has come and is unread by
the same number, so that a slow reader stops the pushing. As pure as `elman._session`.
"""

from elman._codec import Payload
from elman._mailbox import Mailbox, Run
from elman._prediction import Prediction
from elman._session import Operation, Session


class Pipeline:
    """Either carries a whole payload, given at once, or is fed element by element until `end`."""

    __slots__ = ("_elements", "_error", "_fed", "_mailbox", "_open", "_payload", "_session")

    def __init__(self, session: Session, payload: Payload | None = None) -> None:
        self._session = session
        self._payload = payload
        self._elements = 0 if payload is None else len(payload) // session.codec.unit
        self._fed = 0
        self._open = payload is None
        self._error: BaseException | None = None
        self._mailbox = Mailbox()

    def feed(self, payload: Payload) -> Operation[bool]:
        """Pushes one element when there is room for it; False if nobody reads any more."""
        session = self._session
        while self._open:
            session.check()
            if session.room and len(self._mailbox) < session.window:
                session.put(payload, 1, self._mailbox)
                self._fed += 1
                session.wake()
                return True
            yield True
        return False

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more to feed; `error` is raised after the predictions of what was fed."""
        if self._open:
            self._open = False
            self._error = error
            self._session.wake()

    def next(self) -> Operation[Prediction | None]:
        """Waits for the next prediction; None after the last."""
        if not self._mailbox and not (yield from self._wait()):
            return None
        if self._payload is not None:
            self._refill()
        prediction = self._mailbox.get()
        if self._open and len(self._mailbox) == self._session.window - 1:
            self._session.wake()
        return prediction

    def rest(self) -> Operation[list[Run]]:
        """Waits for all predictions."""
        runs: list[Run] = []
        while (yield from self._wait()):
            runs.extend(self._mailbox.take_runs())
        return runs

    def abandon(self) -> None:
        """Nobody reads any more: what is unread is left to the inbox, the rest is not pushed."""
        self._open = False
        self._payload = None
        self._session.abandon(self._mailbox)

    def _wait(self) -> Operation[bool]:
        """Waits for a prediction; False if all have come and been read."""
        session = self._session
        while True:
            self._refill()
            if self._mailbox:
                return True
            owed = self._mailbox.received < self._fed
            if session.failure:
                raise session.failure()
            if not owed and not self._open and self._fed >= self._elements:
                if self._error:
                    raise self._error
                return False
            if not owed and self._fed < self._elements:
                session.check()
            yield owed or self._fed < self._elements

    def _refill(self) -> None:
        """Pushes what fits, once half of the window is free: so in fewer, larger frames."""
        session = self._session
        if self._fed >= self._elements or self._payload is None or session.closing:
            return
        if 2 * session.in_flight <= session.window and len(self._mailbox) <= session.window:
            count = min(session.room, self._elements - self._fed)
            unit = session.codec.unit
            payload = self._payload[self._fed * unit : (self._fed + count) * unit]
            session.put(payload, count, self._mailbox)
            self._fed += count
