"""All sessions of a client on a model, across RPCs, for asyncio.

See `elman._threads.rpc_pool`, with a task in place of a thread.
"""

import asyncio
from collections.abc import Callable
from math import inf

from grpc import aio

from elman._core.models import KnownModel
from elman._core.options import Options, count_addresses
from elman._core.recovery.orphan import Orphan
from elman._core.recovery.recovery import Backoff, Recovery
from elman._core.rpc.server_channels import ServerChannels
from elman._core.session.failures import lost_failure
from elman._core.session.session import Session
from elman._core.session.session_options import SessionOptions
from elman._process.home import Home
from elman._wire.channel import Channel
from elman.aio._alarm import Alarm
from elman.aio._rpc import Rpc, SessionHandle
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
        channels: ServerChannels[Channel[aio.Channel]],
        options: Options,
        broken: Callable[[ElmanError], None],
    ) -> None:
        """`broken` is called with the error when an RPC ends before the RPC's sessions."""
        self._home = home
        self._known = known
        self._channels = channels
        self._options = options
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop)
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
        self._reconnector: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._closed: ElmanError | None = None

    def open(self, options: SessionOptions) -> SessionHandle:
        """Opens a new session."""
        return self._rpc().handle(self._home, options)

    def close_sessions(self) -> None:
        """Closes all sessions for pushes."""
        for rpc in self._rpcs:
            rpc.close_sessions()
        for session in self._recovery:
            session.close()

    async def join(self, timeout: float) -> None:
        """Waits until every session has ended."""
        until = self._loop.time() + timeout
        while (left := until - self._loop.time()) > 0:
            if self._rpcs:
                await next(iter(self._rpcs)).join(left)
            elif self._recovery and self._reconnector is not None:
                await asyncio.wait([self._reconnector], timeout=min(left, _GLANCE))
            else:
                return

    async def cancel(self, error: ElmanError) -> None:
        """Ends all RPCs and orphans at once; sessions still open raise `error`."""
        self._closed = error
        for session in self._recovery.take_all():
            session.end(lost_failure(error, session, resuming=False))
        tasks: set[asyncio.Task[None]] = set()
        for rpc in list(self._rpcs):
            tasks |= rpc.abort(error)
        if self._reconnector is not None:
            self._reconnector.cancel()
            tasks.add(self._reconnector)
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)
        self._alarm.stop()

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
            self._alarm,
            metadata=self._options.metadata,
            max_frame_bytes=self._options.max_frame_bytes,
            orphans=self._orphan,
            succeeded=self._recovery.succeeded,
            got_on=self._recovery.got_on,
            ended=self._ended,
        )
        self._rpcs.add(rpc)
        self._tried[rpc] = self._loop.time() + self._options.connect_timeout
        self._need_reconnector()
        return rpc

    def _ended(self, rpc: Rpc, broken: ElmanError | None) -> None:
        self._rpcs.discard(rpc)
        self._tried.pop(rpc, None)
        self._changed.set()
        if broken:
            self._broken(broken)
        if not self._rpcs and self._reconnector is None:
            self._alarm.stop()

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
            self._loop.time(),
            refused_by=rpc.server if orphan.refused else None,
            after=orphan.after,
            crashed=orphan.crashed,
        ):
            return False
        self._changed.set()
        self._need_reconnector()
        return True

    def _need_reconnector(self) -> None:
        if self._reconnector is None:
            self._reconnector = asyncio.create_task(self._reconnect(), name="elman-reconnector")

    async def _reconnect(self) -> None:
        """Reconnects orphans and watches new RPCs, until there are neither orphans nor unanswered
        RPCs."""
        try:
            while True:
                self._changed.clear()
                now = self._loop.time()
                due = self._recovery.due(now)
                if due:
                    self._adopt(due)
                for session in self._recovery.overdue(now):
                    self._give_up(session)
                for rpc in self._silent(now):
                    rpc.abort(Unavailable("the server did not answer"), final=False)
                at = min(self._recovery.next_at(), *self._tried.values(), inf)
                if at == inf:
                    return
                try:
                    async with asyncio.timeout_at(at):
                        await self._changed.wait()
                except TimeoutError:
                    pass
        finally:
            self._reconnector = None
            # If the caller cancels all tasks, no new task may be started: the orphans end here.
            error = Unavailable("the client's task was cancelled")
            for session in self._recovery.due(inf):
                session.end(lost_failure(error, session, resuming=True))

    def _adopt(self, sessions: list[Session]) -> None:
        try:
            rpc = self._rpc()
            for session in sessions:
                rpc.adopt(session)
        except Exception as bug:
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
