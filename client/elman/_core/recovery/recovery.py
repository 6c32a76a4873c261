"""Sessions that have lost their RPC and will go on, on another one: when, and how long it is tried.

Knows nothing of sockets, threads or event loops; the time is an argument, in seconds on any clock.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from time import monotonic

from elman._core.session import Failure, Session

_FIRST_SECONDS = 0.05
_MOST_SECONDS = 2.0
_MOST_SECONDS_AFTER_CRASHES = 16.0
"""It may be what its servers die of: each try may cost others a server."""
_MOST_SECONDS_AFTER_REFUSALS = 0.2
"""No server is hurt by another one being asked."""


class Backoff:
    """How long to wait before the next try: any time up to a bound that doubles (exponential
    backoff with full jitter), so that many clients do not come back all at once."""

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._tries = 0

    def reset(self) -> None:
        self._tries = 0

    def delay(self) -> float:
        """Seconds."""
        self._tries += 1
        return self.delay_after(self._tries)

    def delay_after(self, tries: int, most: float = _MOST_SECONDS) -> float:
        """Seconds, after so many tries of something by itself."""
        return self._uniform(0, min(most, _FIRST_SECONDS * 2 ** min(tries - 1, 30)))

    def spread(self, seconds: float, tries: int) -> float:
        """So many seconds and, for many who were told the same, some more."""
        return seconds + self._uniform(0, seconds * 2 ** min(tries - 1, 3))


class Attempts:
    """Of a call that holds no state: how long it is tried again, on one server after another."""

    def __init__(self, seconds: float, backoff: Backoff) -> None:
        self._seconds = seconds
        self._until = monotonic() + seconds
        self._backoff = backoff
        self._broke = False

    def again(self, *, broke: bool) -> float | None:
        """Seconds to wait before the next; None if there is no time for one. `broke`: whether it
        failed on a connection that had worked before, which may take long to be found dead: the
        time to reach a server then begins anew, once."""
        if broke and not self._broke:
            self._broke = True
            self._until = monotonic() + self._seconds
        left = self._until - monotonic()
        return min(self._backoff.delay(), left) if left > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """What a server does with a session that came to it."""

    until: float
    """When its time is over."""
    repeated: int
    """How far it was when that was said."""


class Recovery:
    """Strays: sessions between two RPCs. Whoever takes one in gets it from `due`.

    Those for which nothing waits are parked: no time runs for them, and no server is asked.
    """

    def __init__(
        self,
        *,
        resume_timeout: float,
        open_timeout: float,
        servers: int,
        backoff: Backoff,
        bring_back: Callable[[Session], None],
    ) -> None:
        """`resume_timeout`: seconds for which it is tried to go on with a session, 0 for not at
        all; `open_timeout`: the same for one that was never opened; `servers`: how many there are
        at least; `bring_back` takes in at once a session that was parked."""
        self._resume_timeout = resume_timeout
        self._open_timeout = open_timeout
        self._servers = servers
        self._backoff = backoff
        self._orphans: dict[Session, float] = {}
        """When each is due."""
        self._trials: dict[Session, _Trial] = {}
        """Those on an RPC that has not got on with them."""
        self._parked: set[Session] = set()
        """Those that need no server before they have something to say."""
        self._bring_back = bring_back
        self._at = -inf
        """When the next try after a broken RPC may be."""

    def __bool__(self) -> bool:
        return bool(self._orphans)

    def park(self, session: Session) -> bool:
        """Lets a session be until it has something to say. False if something waits for it."""
        if not session.idle or not self._resume_timeout:
            return False
        session.retries.begin_anew()
        session.outbound = self
        session.parked = True
        self._trials.pop(session, None)
        self._parked.add(session)
        return True

    def pushed(self, session: Session) -> None:
        """Part of `Outbound`, as the next four are, of a session that is parked or a stray. What a
        stray has to say is looked at when it gets another RPC."""
        if session in self._parked:
            self._bring_back(session)
            self._parked.discard(session)
            session.parked = False

    def ticket_wanted(self, session: Session) -> None:
        self.pushed(session)

    def closed(self, session: Session) -> None:
        if not session.opened or not session.in_flight:
            self._parked.discard(session)
            self._orphans.pop(session, None)
            session.end(None)

    def got_on(self, session: Session) -> None:
        """A server has answered what a session did not have."""
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
        """A session has lost its RPC. `refused_by`: the server that would not have it for good, if
        that is why; `after`: seconds to wait, if its server said; `crashed`: whether its server
        broke off in the middle of its work.

        False if it is not to be tried again: then it is lost.
        """
        self._trials.pop(session, None)
        retries = session.retries
        retries.lost(now, crashed=crashed)
        if refused_by is not None:
            retries.refused(refused_by)
        until = self._until(session)
        if now >= until or retries.all_refuse(self._servers):
            return False
        # The last try is when its time is over.
        self._orphans[session] = min(self._next_try(session, now, refused_by, after), until)
        session.outbound = self
        return True

    def _next_try(
        self, session: Session, now: float, refused_by: str | None, after: float | None
    ) -> float:
        retries = session.retries
        # Handed over again without an answer between, it is as if the server had broken off.
        if after or (after is not None and retries.tries == 1):
            return now + self._backoff.spread(after, retries.tries)
        if refused_by is not None:
            return now + self._backoff.delay_after(retries.tries, _MOST_SECONDS_AFTER_REFUSALS)
        if self._at <= now:  # of those that are lost together, the first one settles when
            self._at = now + self._backoff.delay()
        at = self._at
        if retries.tries > 1:  # it may be the one that its servers die of
            crashes = retries.crashes
            at = max(at, now + self._backoff.delay_after(retries.tries))
            at = max(at, now + self._backoff.delay_after(crashes, _MOST_SECONDS_AFTER_CRASHES))
        return at

    def _until(self, session: Session) -> float:
        """When its time is over; inf if it does not run."""
        since = session.retries.since
        if since is None:
            return inf
        return since + (self._resume_timeout if session.opened else self._open_timeout)

    def __iter__(self) -> Iterator[Session]:
        return iter([*self._orphans, *self._parked])

    def succeeded(self) -> None:
        """A server gets on with one."""
        self._backoff.reset()

    def next_at(self) -> float:
        """When there is something to do next; inf if there is nothing."""
        trials = (trial.until for trial in self._trials.values())
        return min(min(self._orphans.values(), default=inf), min(trials, default=inf))

    def due(self, now: float) -> list[Session]:
        """Those that are due, who are no strays then."""
        found = [session for session, at in self._orphans.items() if at <= now]
        for session in found:
            del self._orphans[session]
        found = [session for session in found if not self.park(session)]
        for session in found:
            if session.opened:
                self._try(session, max(self._until(session), now + self._open_timeout))
        return found

    def overdue(self, now: float) -> list[Session]:
        """Those whose time is over though their RPC goes on: they are lost. A server that repeats
        its answers, however slowly, gets as much time again for the next ones."""
        over = [session for session, trial in self._trials.items() if trial.until <= now]
        lost: list[Session] = []
        for session in over:
            trial = self._trials.pop(session)
            if session.idle:
                session.retries.begin_anew()
            elif session.repeated > trial.repeated:
                self._try(session, now + max(self._resume_timeout, self._open_timeout))
            else:
                lost.append(session)
        return lost

    def _try(self, session: Session, until: float) -> None:
        self._trials[session] = _Trial(until=until, repeated=session.repeated)

    def take_all(self) -> list[Session]:
        """All of them, and all that are parked, who are neither then."""
        orphans, self._orphans = self._orphans, {}
        parked, self._parked = self._parked, set()
        self._trials.clear()
        return [*orphans, *parked]
