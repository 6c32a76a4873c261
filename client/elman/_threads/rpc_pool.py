"""All sessions of a client on a model, across RPCs, for threads.

Normally there is a single RPC at a time. When the RPC breaks or the server hands sessions over, the
sessions become orphans and are resumed on another RPC. A reconnector thread runs while there are
orphans.
"""

import threading
from collections.abc import Callable
from time import monotonic

import grpc

from elman._core.models import KnownModel
from elman._core.options import Options, count_addresses
from elman._core.recovery.orphan import Orphan
from elman._core.recovery.recovery import Backoff, Recovery
from elman._core.rpc.server_channels import ServerChannels
from elman._core.session.failures import lost_failure
from elman._core.session.session import Session
from elman._core.session.session_options import SessionOptions
from elman._process.home import Home
from elman._threads.monitor import Monitor, Waiters, rest
from elman._threads.rpc import Guard, Rpc, SessionHandle
from elman._wire.channel import Channel
from elman.errors import ElmanError, Unavailable

_GLANCE = 0.05
"""Seconds between two checks for remaining sessions during a close."""
_CANCEL_SECONDS = 2.0
"""Timeout in seconds for gRPC to end cancelled calls. Usually gRPC ends calls at once."""


class RpcPool:
    def __init__(
        self,
        home: Home,
        known: KnownModel,
        channels: ServerChannels[Channel[grpc.Channel]],
        options: Options,
        broken: Callable[[ElmanError], None],
    ) -> None:
        """`broken` is called with the error when an RPC ends before the RPC's sessions."""
        self._home = home
        self._known = known
        self._channels = channels
        self._options = options
        self._broken = broken
        self._monitor = Monitor()
        self._guard = Guard(self._interrupted)
        self._recovery = Recovery(
            resume_timeout=options.resume_timeout,
            open_timeout=options.connect_timeout,
            servers=count_addresses(options.targets),
            backoff=Backoff(),
            bring_back=lambda session: self._rpc().adopt(session),
        )
        self._current: Rpc | None = None
        self._rpcs: set[Rpc] = set()
        """RPCs under way."""
        self._tried: dict[Rpc, float] = {}
        """New RPCs without an answer yet, with the deadline of the first answer."""
        self._reconnector: threading.Thread | None = None
        self._reconnectors: Waiters = []
        self._closed: ElmanError | None = None

    def open(self, options: SessionOptions) -> SessionHandle:
        """Opens a new session."""
        with self._monitor.lock, self._guard:
            return self._rpc().handle(self._home, self._guard, options)

    def close_sessions(self) -> None:
        """Closes all sessions for pushes."""
        with self._monitor.lock:
            for rpc in self._rpcs:
                rpc.close_sessions()
            for session in self._recovery:
                session.close()

    def join(self, timeout: float) -> None:
        """Waits until every session has ended."""
        until = monotonic() + timeout
        while (left := until - monotonic()) > 0:
            with self._monitor.lock:
                rpcs, reconnector = list(self._rpcs), self._reconnector
                orphans = bool(self._recovery)
            if rpcs:
                rpcs[0].join(left)
            elif orphans and reconnector is not None:
                reconnector.join(min(left, _GLANCE))
            else:
                return

    def cancel(self, error: ElmanError) -> None:
        """Ends all RPCs and orphans at once; sessions still open raise `error`."""
        with self._monitor.lock:
            self._closed = error
            self._end_orphans(error)
            rpcs, reconnector = list(self._rpcs), self._reconnector
        until = monotonic() + _CANCEL_SECONDS
        for rpc in rpcs:
            rpc.abort(error)
        for rpc in rpcs:
            rpc.join(max(0, until - monotonic()))
        if reconnector is not None:
            reconnector.join(max(0, until - monotonic()))

    def _rpc(self) -> Rpc:
        """Returns the RPC for new sessions, and begins an RPC if needed."""
        if self._current is None or not self._takes_sessions(self._current):
            self._current = next(filter(self._takes_sessions, self._rpcs), None) or self._begin()
        return self._current

    def _takes_sessions(self, rpc: Rpc) -> bool:
        return rpc.open and self._channels.is_current(rpc.server_channel)

    def _begin(self) -> Rpc:
        """Begins an RPC. The server must answer within the connect timeout."""
        rpc = Rpc(
            self._channels,
            self._known,
            self._monitor,
            metadata=self._options.metadata,
            max_frame_bytes=self._options.max_frame_bytes,
            orphans=self._orphan,
            succeeded=self._recovery.succeeded,
            got_on=self._recovery.got_on,
            ended=self._ended,
        )
        self._rpcs.add(rpc)
        self._tried[rpc] = monotonic() + self._options.connect_timeout
        self._need_reconnector()
        return rpc

    def _ended(self, rpc: Rpc, broken: ElmanError | None) -> None:
        self._rpcs.discard(rpc)
        self._tried.pop(rpc, None)
        self._monitor.wake(self._reconnectors)
        if broken:
            self._broken(broken)

    def _orphan(self, rpc: Rpc, session: Session, orphan: Orphan) -> bool:
        if orphan.leaving:
            self._channels.retire(rpc.server_channel)
        elif orphan.refused:
            self._channels.leave(rpc.server_channel)
        elif not orphan.parked:
            self._channels.pass_over(rpc.server_channel)
        if self._closed is not None:
            return False
        if self._recovery.park(session):
            return True
        if not self._recovery.add(
            session,
            monotonic(),
            refused_by=rpc.server if orphan.refused else None,
            after=orphan.after,
            crashed=orphan.crashed,
        ):
            return False
        self._monitor.wake(self._reconnectors)
        self._need_reconnector()
        return True

    def _need_reconnector(self) -> None:
        if self._reconnector is None:
            reconnector = threading.Thread(
                target=self._reconnect, name="elman-reconnector", daemon=True
            )
            reconnector.start()
            self._reconnector = reconnector

    def _reconnect(self) -> None:
        """Reconnects orphans and watches new RPCs, until there are neither orphans nor unanswered
        RPCs."""
        try:
            self._keep_reconnecting()
        except BaseException as bug:
            with self._monitor.lock:
                self._reconnector = None
                self._end_orphans(Unavailable(f"the client failed to go on with it: {bug!r}"))
            raise

    def _keep_reconnecting(self) -> None:
        while True:
            with self._monitor.lock:
                self._monitor.settle()
                now = monotonic()
                due = self._recovery.due(now)
                if due:
                    self._adopt(due)
                for session in self._recovery.overdue(now):
                    self._give_up(session)
                silent = self._silent(now)
                at = min(self._recovery.next_at(), *self._tried.values(), float("inf"))
                if self._closed is not None or (at == float("inf") and not silent):
                    self._reconnector = None
                    return
                waiter = self._monitor.enlist(self._reconnectors)
            for rpc in silent:
                rpc.abort(Unavailable("the server did not answer"), final=False)
            rest(waiter, 0 if silent else max(0, at - monotonic()))
            with self._monitor.lock:
                self._monitor.returned(self._reconnectors, waiter)

    def _adopt(self, sessions: list[Session]) -> None:
        try:
            rpc = self._rpc()
            for session in sessions:
                rpc.adopt(session)
        except Exception as bug:  # for example, no thread can be started
            error = Unavailable(f"the client failed to go on with it: {bug!r}")
            for session in sessions:
                session.end(lost_failure(error, session, resuming=True))

    def _give_up(self, session: Session) -> None:
        error = Unavailable(f"no server went on with it within {self._options.resume_timeout:g} s")
        session.outbound.give_up(session, lost_failure(error, session, resuming=True))

    def _silent(self, now: float) -> list[Rpc]:
        """New RPCs without an answer by the deadline."""
        self._tried = {
            rpc: at for rpc, at in self._tried.items() if rpc in self._rpcs and not rpc.answered
        }
        found = [rpc for rpc, at in self._tried.items() if at <= now]
        for rpc in found:
            del self._tried[rpc]
        return found

    def _end_orphans(self, error: ElmanError) -> None:
        for session in self._recovery.take_all():
            session.end(lost_failure(error, session, resuming=False))
        self._monitor.wake(self._reconnectors)

    def _interrupted(self) -> None:
        error = Unavailable("interrupted in the middle of a change")
        for rpc in self._rpcs:
            rpc.fail(error)
        self._end_orphans(error)
