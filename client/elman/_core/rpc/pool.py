"""RPCs of a client on a model, and the sessions between two RPCs.

Normally there is a single RPC at a time. When the RPC breaks or the server hands sessions over, the
sessions become orphans and are resumed on another RPC. The pool decides which RPC takes a session,
which server is next, and when to try again. A shell makes the calls and waits between the turns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, Protocol, TypeVar

from elman._core.options import Options, count_addresses
from elman._core.recovery.backoff import Backoff
from elman._core.recovery.orphan import Orphan
from elman._core.recovery.recovery import Recovery
from elman._core.rpc.rpc import Rpc
from elman._core.rpc.server_channels import ServerChannels
from elman._core.session.failures import lost_failure
from elman._core.session.session import Session
from elman._core.session.session_options import SessionOptions
from elman.errors import ElmanError, Unavailable

CHECK_SECONDS = 0.05
"""Seconds between two checks for remaining sessions during a close."""
CANCEL_SECONDS = 2.0
"""Timeout in seconds for gRPC to end cancelled calls. Usually gRPC ends calls at once."""


class Call(Protocol):
    """A shell's call of gRPC, moving the frames of an RPC."""

    @property
    def rpc(self) -> Rpc: ...

    def start(self) -> None:
        """Starts the call, unless started."""


C = TypeVar("C", bound=Call)
C_co = TypeVar("C_co", bound=Call, covariant=True)


class Shell(Protocol[C_co]):
    """Calls and the reconnector of a pool. The reconnector takes the pool's turns."""

    def new_call(self) -> C_co:
        """Makes a call with a new RPC. The pool starts the call later."""

    def need_reconnector(self) -> None:
        """Starts the reconnector, or wakes it: the next turn may be due earlier."""

    def wake_reconnector(self) -> None:
        """Wakes the reconnector, if running: there may be no next turn."""

    def failed(self, error: ElmanError) -> None:
        """Reports the end of an RPC before the RPC's sessions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn(Generic[C]):
    """Result of a reconnector's turn."""

    silent: list[C]
    """Calls to abort: no answer came by the deadline."""
    at: float
    """Time of the next turn; inf if there is nothing left to wait for."""


class RpcPool(Generic[C]):
    """Only one thread at a time may call the pool, an RPC or a session of the pool."""

    def __init__(
        self,
        channels: ServerChannels[Any],
        options: Options,
        shell: Shell[C],
        clock: Callable[[], float],
        backoff: Backoff | None = None,
    ) -> None:
        self._channels = channels
        self._options = options
        self._shell = shell
        self._clock = clock
        self._recovery = Recovery(
            resume_timeout=options.resume_timeout,
            open_timeout=options.connect_timeout,
            servers=count_addresses(options.targets),
            backoff=backoff or Backoff(),
            resume=lambda session: self._adopt([session]),
        )
        self._current: C | None = None
        self._calls: dict[Rpc, C] = {}
        """RPCs under way."""
        self._deadlines: dict[Rpc, float] = {}
        """New RPCs without an answer yet, with the deadline of the first answer."""
        self._closed = False

    @property
    def calls(self) -> list[C]:
        """Calls under way."""
        return list(self._calls.values())

    @property
    def has_orphans(self) -> bool:
        return bool(self._recovery)

    # -------------------------------------------------------------------------------------------
    # For the client

    def open(self, options: SessionOptions, wake: Callable[[], None]) -> Session:
        """Creates a session on the RPC for new sessions. Begins an RPC if needed."""
        call = self._call()
        session = call.rpc.multiplexer.open(options, wake)
        call.start()
        return session

    def close_sessions(self) -> None:
        """Closes all sessions for pushes."""
        for rpc in list(self._calls):
            rpc.multiplexer.close_sessions()
        for session in self._recovery:
            session.close()

    def close(self, error: ElmanError) -> list[C]:
        """Ends all orphans with `error`, and allows no more. Returns the calls to abort."""
        self._closed = True
        self._end_orphans(error)
        return self.calls

    def fail(self, error: ElmanError) -> None:
        """Ends all sessions with `error`."""
        for rpc in list(self._calls):
            rpc.multiplexer.fail(error, final=True)
        self._end_orphans(error)

    # -------------------------------------------------------------------------------------------
    # For RPCs

    def orphaned(self, rpc: Rpc, session: Session, orphan: Orphan) -> bool:
        """Part of `RpcEvents`."""
        if orphan.draining:
            self._channels.retire(rpc.server_channel)
        elif orphan.refused:
            self._channels.leave(rpc.server_channel)
        elif not orphan.parked:
            self._channels.pass_over(rpc.server_channel)
        if self._closed:
            return False
        if self._recovery.park(session):
            return True
        if not self._recovery.add(
            session,
            self._clock(),
            refused_by=rpc.server if orphan.refused else None,
            after=orphan.after,
            crashed=orphan.crashed,
        ):
            return False
        self._shell.need_reconnector()
        return True

    def succeeded(self) -> None:
        """Part of `RpcEvents`."""
        self._recovery.succeeded()

    def progressed(self, session: Session) -> None:
        """Part of `RpcEvents`."""
        self._recovery.progressed(session)

    def ended(self, rpc: Rpc, error: ElmanError | None) -> None:
        """Part of `RpcEvents`."""
        self._calls.pop(rpc, None)
        self._deadlines.pop(rpc, None)
        self._shell.wake_reconnector()
        if error:
            self._shell.failed(error)

    # -------------------------------------------------------------------------------------------
    # For the reconnector

    def turn(self) -> Turn[C]:
        """Resumes orphans that are due, gives up sessions past their deadline, and finds calls
        without an answer."""
        now = self._clock()
        due = self._recovery.due(now)
        if due:
            self._resume(due)
        for session in self._recovery.overdue(now):
            self._give_up(session)
        silent = self._silent(now)
        at = now if silent else min(self._recovery.next_at(), *self._deadlines.values(), inf)
        return Turn(silent=silent, at=inf if self._closed else at)

    def lose_orphans(self, error: ElmanError) -> None:
        """Ends all orphans, because the reconnector failed or was cancelled.

        Parked sessions stay: their next push needs no reconnector.
        """
        for session in self._recovery.take_orphans():
            session.end(lost_failure(error, session, resuming=True))

    def _call(self) -> C:
        """Returns the call for new sessions, and begins a call if needed."""
        if self._current is None or not self._takes_sessions(self._current):
            others = filter(self._takes_sessions, self._calls.values())
            self._current = next(others, None) or self._new_call()
        return self._current

    def _takes_sessions(self, call: C) -> bool:
        return call.rpc.open and self._channels.is_current(call.rpc.server_channel)

    def _new_call(self) -> C:
        """Begins an RPC. The server must answer within the connect timeout."""
        call = self._shell.new_call()
        self._calls[call.rpc] = call
        self._deadlines[call.rpc] = self._clock() + self._options.connect_timeout
        self._shell.need_reconnector()
        return call

    def _adopt(self, sessions: list[Session]) -> None:
        call = self._call()
        for session in sessions:
            call.rpc.multiplexer.adopt(session)
        call.start()

    def _resume(self, sessions: list[Session]) -> None:
        try:
            self._adopt(sessions)
        except Exception as bug:  # for example, no thread can be started
            error = Unavailable(f"the client failed to resume the session: {bug!r}")
            for session in sessions:
                session.end(lost_failure(error, session, resuming=True))

    def _give_up(self, session: Session) -> None:
        seconds = self._options.resume_timeout
        error = Unavailable(f"no server resumed the session within {seconds:g} s")
        session.outbound.give_up(session, lost_failure(error, session, resuming=True))

    def _silent(self, now: float) -> list[C]:
        """New calls without an answer by the deadline."""
        waiting = {rpc: at for rpc, at in self._deadlines.items() if not rpc.answered}
        self._deadlines = {rpc: at for rpc, at in waiting.items() if at > now}
        return [self._calls[rpc] for rpc, at in waiting.items() if at <= now]

    def _end_orphans(self, error: ElmanError) -> None:
        for session in self._recovery.take_all():
            session.end(lost_failure(error, session, resuming=False))
        self._shell.wake_reconnector()
