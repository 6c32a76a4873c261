"""Orphans: sessions between two RPCs, with the times of retries.

Independent of sockets, threads and event loops. Times are arguments, in seconds on any clock.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

from elman._core.recovery.backoff import Backoff
from elman._core.session.operation import Failure
from elman._core.session.session import Session

_MAX_SECONDS_AFTER_CRASHES = 16.0
"""The session may be the cause of the crashes, so each retry may cost other clients a server."""
_MAX_SECONDS_AFTER_REFUSALS = 0.2
"""After a refusal, asking another server harms no server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """Resumed session on a server without progress so far."""

    until: float
    """Deadline for progress."""
    repeated: int
    """The session's `repeated` at the start of the trial."""


class Recovery:
    """Orphans and parked sessions. The reconnector takes orphans from `due`.

    A parked session waits for no answer: no deadline runs, and no server is asked.
    """

    def __init__(
        self,
        *,
        resume_timeout: float,
        open_timeout: float,
        servers: int,
        backoff: Backoff,
        resume: Callable[[Session], None],
    ) -> None:
        """Sets the limits of retries.

        `resume_timeout`: seconds of retries for a session; 0 for no retries.
        `open_timeout`: seconds of retries for a session never opened.
        `servers`: least number of servers.
        `resume`: resumes a parked session at once.
        """
        self._resume_timeout = resume_timeout
        self._open_timeout = open_timeout
        self._servers = servers
        self._backoff = backoff
        self._orphans: dict[Session, float] = {}
        """Orphans, with the time of the next try."""
        self._trials: dict[Session, _Trial] = {}
        """Sessions on a new RPC without progress so far."""
        self._parked: set[Session] = set()
        """Sessions without a server, and without need of a server until the next push."""
        self._resume = resume
        self._at = -inf
        """Earliest time of the next try after a broken RPC."""

    def __bool__(self) -> bool:
        return bool(self._orphans)

    def park(self, session: Session) -> bool:
        """Parks a session until its next push. Returns False if the session is waiting for an
        answer."""
        if not session.idle or not self._resume_timeout:
            return False
        session.retries.reset()
        session.outbound = self
        session.parked = True
        self._trials.pop(session, None)
        self._parked.add(session)
        return True

    def pushed(self, session: Session) -> None:
        """Part of `Outbound`, for parked sessions and orphans, like the next four methods.

        An orphan's pushes and requests are read by its next RPC.
        """
        if session in self._parked:
            self._resume(session)
            self._parked.discard(session)
            session.parked = False

    def ticket_requested(self, session: Session) -> None:
        self.pushed(session)

    def closed(self, session: Session) -> None:
        if not session.opened or not session.in_flight:
            self._parked.discard(session)
            self._orphans.pop(session, None)
            session.end(None)

    def progressed(self, session: Session) -> None:
        """Ends the trial of a session, after an answer new to the session."""
        self._trials.pop(session, None)

    def give_up(self, session: Session, failure: Failure) -> None:
        self._parked.discard(session)
        self._orphans.pop(session, None)
        session.end(failure)

    def add(
        self,
        session: Session,
        now: float,
        *,
        refused_by: str | None = None,
        after: float | None = None,
        crashed: bool = False,
    ) -> bool:
        """Adds an orphan. Returns False if the session is lost, without another try.

        `refused_by`: the server, if it refused the session for good.
        `after`: seconds to wait, if the server named a time.
        `crashed`: whether the RPC broke after the server had answered.
        """
        self._trials.pop(session, None)
        retries = session.retries
        retries.lost(now, crashed=crashed)
        if refused_by is not None:
            retries.refused(refused_by)
        until = self._until(session)
        if now >= until or retries.all_refuse(self._servers):
            return False
        # The last try is at the deadline.
        self._orphans[session] = min(self._next_try(session, now, refused_by, after), until)
        session.outbound = self
        return True

    def _next_try(
        self, session: Session, now: float, refused_by: str | None, after: float | None
    ) -> float:
        retries = session.retries
        # A second hand-over without an answer in between counts as a broken RPC.
        if after or (after is not None and retries.tries == 1):
            return now + self._backoff.spread(after, retries.tries)
        if refused_by is not None:
            return now + self._backoff.delay_after(retries.tries, _MAX_SECONDS_AFTER_REFUSALS)
        if self._at <= now:  # the first of several orphans sets the time for all
            self._at = now + self._backoff.delay()
        at = self._at
        if retries.tries > 1:  # the session itself may crash its servers
            crashes = retries.crashes
            at = max(at, now + self._backoff.delay_after(retries.tries))
            at = max(at, now + self._backoff.delay_after(crashes, _MAX_SECONDS_AFTER_CRASHES))
        return at

    def _until(self, session: Session) -> float:
        """Deadline of a session; inf without a deadline."""
        since = session.retries.since
        if since is None:
            return inf
        return since + (self._resume_timeout if session.opened else self._open_timeout)

    def __iter__(self) -> Iterator[Session]:
        return iter([*self._orphans, *self._parked])

    def succeeded(self) -> None:
        """Resets the backoff, at the first progress of a session on an RPC."""
        self._backoff.reset()

    def next_at(self) -> float:
        """Time of the next action; inf if there is none."""
        trials = (trial.until for trial in self._trials.values())
        return min(min(self._orphans.values(), default=inf), min(trials, default=inf))

    def due(self, now: float) -> list[Session]:
        """Removes and returns the orphans due for a try."""
        due = self._take(now)
        for session in due:
            if session.opened:
                self._try(session, max(self._until(session), now + self._open_timeout))
        return due

    def take_orphans(self) -> list[Session]:
        """Removes and returns all orphans, for no try."""
        return self._take(inf)

    def _take(self, now: float) -> list[Session]:
        """Removes the orphans due at `now`. Parks the sessions that can be parked, and returns the
        others."""
        due = [session for session, at in self._orphans.items() if at <= now]
        for session in due:
            del self._orphans[session]
        return [session for session in due if not self.park(session)]

    def overdue(self, now: float) -> list[Session]:
        """Removes and returns the sessions past the deadline on a new RPC; the sessions are lost.

        A server repeating earlier answers, however slowly, gets the same time again.
        """
        over = [session for session, trial in self._trials.items() if trial.until <= now]
        lost: list[Session] = []
        for session in over:
            trial = self._trials.pop(session)
            if session.idle:
                session.retries.reset()
            elif session.repeated > trial.repeated:
                self._try(session, now + max(self._resume_timeout, self._open_timeout))
            else:
                lost.append(session)
        return lost

    def _try(self, session: Session, until: float) -> None:
        self._trials[session] = _Trial(until=until, repeated=session.repeated)

    def take_all(self) -> list[Session]:
        """Removes and returns all orphans and parked sessions."""
        orphans, self._orphans = self._orphans, {}
        parked, self._parked = self._parked, set()
        self._trials.clear()
        return [*orphans, *parked]
