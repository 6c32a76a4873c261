"""Sessions that have lost their RPC and will go on, on another one: when, and how long it is tried.

Knows nothing of sockets, threads or event loops; the time is an argument, in seconds on any clock.
"""

import random
from collections.abc import Callable, Iterator
from math import inf
from time import monotonic

from elman._session import Session

_FIRST_SECONDS = 0.05
_MOST_SECONDS = 2.0
_REFUSALS = 3
"""How often each server may refuse a session for good, as one may know what others do not."""


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

    def delay_after(self, tries: int) -> float:
        """Seconds, after so many tries of something by itself."""
        return self._uniform(0, min(_MOST_SECONDS, _FIRST_SECONDS * 2 ** min(tries - 1, 30)))

    def spread(self, seconds: float, tries: int) -> float:
        """So many seconds and, for many who were told the same, some more."""
        return seconds + self._uniform(0, seconds * 2 ** min(tries - 1, 3))


class Attempts:
    """Of a call that holds no state: how long it is tried again, on one server after another."""

    def __init__(self, seconds: float, backoff: Backoff) -> None:
        self._until = monotonic() + seconds
        self._backoff = backoff

    def again(self) -> float | None:
        """Seconds to wait before the next; None if there is no time for one."""
        left = self._until - monotonic()
        return min(self._backoff.delay(), left) if left > 0 else None


class Recovery:
    """Strays: sessions between two RPCs. Whoever takes one in gets it from `due`."""

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
        self._refusals = _REFUSALS * servers
        self._backoff = backoff
        self._strays: dict[Session, float] = {}
        """When each is due."""
        self._parked: set[Session] = set()
        """Those that need no server before they have something to say."""
        self._bring_back = bring_back
        self._at = -inf
        """When the next try after a broken RPC may be."""

    def __bool__(self) -> bool:
        return bool(self._strays)

    def park(self, session: Session) -> bool:
        """Lets a session be until it has something to say. False if it has."""
        if session.pending_elements or session.closing or session.ticket_wanted_at is not None:
            return False
        session.outbound = self
        self._parked.add(session)
        return True

    def pushed(self, session: Session) -> None:
        """Part of `Outbound`, as the next two are, of a session that is parked or a stray. What a
        stray has to say is looked at when it gets another RPC."""
        if session in self._parked:
            self._bring_back(session)
            self._parked.discard(session)

    def ticket_wanted(self, session: Session) -> None:
        self.pushed(session)

    def closed(self, session: Session) -> None:
        if session.opened and not session.in_flight:
            self._parked.discard(session)
            self._strays.pop(session, None)
            session.end(None)

    def add(self, session: Session, now: float, *, refused: bool, after: float | None) -> bool:
        """A session has lost its RPC. `refused`: whether a server would not have it for good;
        `after`: seconds to wait, if its server said.

        False if it is not to be tried again: then it is lost.
        """
        timeout = self._resume_timeout if session.opened else self._open_timeout
        if session.stray_since is None:
            session.stray_since = now
        session.refusals += refused
        session.tries += 1
        if now - session.stray_since >= timeout or session.refusals > self._refusals:
            return False
        if after is None:
            if self._at <= now:  # of those that are lost together, the first one settles when
                self._at = now + self._backoff.delay()
            at = self._at
            if session.tries > 1:  # it may be the one that its servers die of
                at = max(at, now + self._backoff.delay_after(session.tries))
        else:
            at = now + self._backoff.spread(after, session.tries)
        # The last try is when its time is over.
        self._strays[session] = min(at, session.stray_since + timeout)
        session.outbound = self
        return True

    def __iter__(self) -> Iterator[Session]:
        return iter([*self._strays, *self._parked])

    def succeeded(self) -> None:
        """A server gets on with one."""
        self._backoff.reset()

    def next_at(self) -> float:
        """When the next one is due; inf if there is none."""
        return min(self._strays.values(), default=inf)

    def due(self, now: float) -> list[Session]:
        """Those that are due, who are no strays then."""
        found = [session for session, at in self._strays.items() if at <= now]
        for session in found:
            del self._strays[session]
        return found

    def take_all(self) -> list[Session]:
        """All of them, and all that are parked, who are neither then."""
        parked, self._parked = self._parked, set()
        return [*self.due(inf), *parked]
