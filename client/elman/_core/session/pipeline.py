"""Elements on the way through a session, with predictions in order.

Back-pressure on both sides: the session's window bounds the elements in flight, and equally the
unread predictions, so a slow reader stops the pushes. Independent of sockets, threads and event
loops, like `elman._core.session.session`.
"""

from collections.abc import Iterator

from elman._core.session.mailbox import Mailbox, Run
from elman._core.session.operation import Operation
from elman._core.session.session import Session
from elman._wire.codec import Payload
from elman._wire.outputs import Frame
from elman._wire.prediction import Prediction


class Pipeline:
    """Pushes a whole payload, or is fed element by element until `end`."""

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
        # Predictions handed out by `batch`. Only the reader uses this mailbox, so it needs no lock.
        self._reading = Mailbox()

    @property
    def unread(self) -> int:
        return len(self._mailbox) + len(self._reading)

    # -------------------------------------------------------------------------------------------
    # For the feeder

    def feed(self, payload: Payload) -> Operation[bool]:
        """Pushes an element once there is room. Returns False if the reader has gone."""
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
        """Ends the feed. `error` is raised after the predictions of all elements fed."""
        if self._open:
            self._open = False
            self._error = error
            self._session.wake()

    # -------------------------------------------------------------------------------------------
    # For the reader

    def batch(self) -> Operation[Iterator[Prediction] | None]:
        """Waits for predictions; None after the last.

        Returns an iterator over the unread predictions. The caller exhausts the iterator before the
        next call.
        """
        if self._open:
            # The last batch has been read, so the feeder may have room.
            self._session.wake()
        if not (yield from self._wait()):
            return None
        self._reading.merge(self._mailbox.take_runs())
        return self._reading.drain()

    def collect(self) -> Operation[list[Run]]:
        """Waits for all predictions."""
        runs: list[Run] = []
        while (yield from self._wait()):
            runs.extend(self._mailbox.take_runs())
        return runs

    def abandon(self) -> None:
        """Stops the pushes and leaves unread predictions to the inbox, as the reader has gone."""
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
        """Waits for a prediction. Returns False after the last prediction."""
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
        """Pushes more of the payload once half of the window is free, for fewer and larger
        frames."""
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
        """Drops the rest of the payload."""
        self._payload = None
        if self._refill in self._session.sources:
            self._session.sources.remove(self._refill)
