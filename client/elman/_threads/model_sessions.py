"""All sessions of a client on a model, across RPCs, for threads.

An `RpcPool` under a lock. A reconnector thread runs while there are orphans or unanswered RPCs.
"""

import threading
from collections.abc import Callable
from math import inf
from time import monotonic

import grpc

from elman._core.models import KnownModel
from elman._core.options import Options
from elman._core.rpc.pool import CANCEL_SECONDS, CHECK_SECONDS, RpcPool
from elman._core.rpc.server_channels import ServerChannels
from elman._core.session.session_options import SessionOptions
from elman._process.home import Home
from elman._threads.monitor import Monitor, Waiters, wait
from elman._threads.session_handle import Guard, SessionHandle
from elman._threads.stream_call import StreamCall
from elman._wire.channel import Channel
from elman.errors import ElmanError, Unavailable


class ModelSessions:
    def __init__(
        self,
        home: Home,
        known: KnownModel,
        channels: ServerChannels[Channel[grpc.Channel]],
        options: Options,
        failed: Callable[[ElmanError], None],
    ) -> None:
        """`failed` is called with the error when an RPC ends before the RPC's sessions."""
        self._home = home
        self._known = known
        self._channels = channels
        self._options = options
        self._monitor = Monitor()
        self._guard = Guard(self._interrupted)
        self.failed = failed
        self._reconnector: threading.Thread | None = None
        self._reconnectors: Waiters = []
        self._pool: RpcPool[StreamCall] = RpcPool(channels, options, self, monotonic)

    def open(self, options: SessionOptions) -> SessionHandle:
        """Opens a new session."""
        with self._monitor.lock, self._guard:
            return SessionHandle(
                self._home,
                self._monitor,
                self._guard,
                lambda wake: self._pool.open(options, wake),
            )

    def close_sessions(self) -> None:
        """Closes all sessions for pushes."""
        with self._monitor.lock:
            self._pool.close_sessions()

    def join(self, timeout: float) -> None:
        """Waits until every session has ended."""
        until = monotonic() + timeout
        while (left := until - monotonic()) > 0:
            with self._monitor.lock:
                calls, reconnector = self._pool.calls, self._reconnector
                orphans = self._pool.has_orphans
            if calls:
                calls[0].join(left)
            elif orphans and reconnector is not None:
                reconnector.join(min(left, CHECK_SECONDS))
            else:
                return

    def cancel(self, error: ElmanError) -> None:
        """Ends all RPCs and orphans at once; sessions still open raise `error`."""
        with self._monitor.lock:
            calls, reconnector = self._pool.close(error), self._reconnector
        until = monotonic() + CANCEL_SECONDS
        for call in calls:
            call.abort(error)
        for call in calls:
            call.join(max(0, until - monotonic()))
        if reconnector is not None:
            reconnector.join(max(0, until - monotonic()))

    def new_call(self) -> StreamCall:
        """Part of `Shell`, like the next two methods."""
        return StreamCall(self._known, self._channels, self._options, self._pool, self._monitor)

    def need_reconnector(self) -> None:
        self.wake_reconnector()
        if self._reconnector is None:
            reconnector = threading.Thread(
                target=self._reconnect, name="elman-reconnector", daemon=True
            )
            reconnector.start()
            self._reconnector = reconnector

    def wake_reconnector(self) -> None:
        self._monitor.wake(self._reconnectors)

    def _reconnect(self) -> None:
        try:
            self._take_turns()
        except BaseException as bug:
            with self._monitor.lock:
                self._reconnector = None
                self._pool.lose_orphans(
                    Unavailable(f"the client failed to resume the session: {bug!r}")
                )
            raise

    def _take_turns(self) -> None:
        while True:
            with self._monitor.lock:
                self._monitor.settle()
                turn = self._pool.turn()
                if turn.at == inf:
                    self._reconnector = None
                    return
                waiter = self._monitor.enlist(self._reconnectors)
            for call in turn.silent:
                call.abort(Unavailable("the server did not answer"), final=False)
            wait(waiter, max(0, turn.at - monotonic()))
            with self._monitor.lock:
                self._monitor.returned(self._reconnectors, waiter)

    def _interrupted(self) -> None:
        self._pool.fail(Unavailable("an interrupt left the sessions half changed"))
