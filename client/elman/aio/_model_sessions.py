"""All sessions of a client on a model, across RPCs, for asyncio.

See `elman._threads.model_sessions`, with a task in place of a thread.
"""

import asyncio
from collections.abc import Callable
from math import inf

from grpc import aio

from elman._core.models import KnownModel
from elman._core.options import Options
from elman._core.rpc.pool import CANCEL_SECONDS, CHECK_SECONDS, RpcPool
from elman._core.rpc.server_channels import ServerChannels
from elman._core.session.session_options import SessionOptions
from elman._process.home import Home
from elman._wire.channel import Channel
from elman.aio._alarm import Alarm
from elman.aio._session_handle import SessionHandle
from elman.aio._stream_call import StreamCall
from elman.errors import ElmanError, Unavailable


class ModelSessions:
    def __init__(
        self,
        home: Home,
        known: KnownModel,
        channels: ServerChannels[Channel[aio.Channel]],
        options: Options,
        failed: Callable[[ElmanError], None],
    ) -> None:
        """`failed` is called with the error when an RPC ends before the RPC's sessions."""
        self._home = home
        self._known = known
        self._channels = channels
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop)
        self.failed = failed
        self._reconnector: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._pool: RpcPool[StreamCall] = RpcPool(channels, options, self, self._loop.time)

    def open(self, options: SessionOptions) -> SessionHandle:
        """Opens a new session."""
        return SessionHandle(self._home, self._alarm, lambda wake: self._pool.open(options, wake))

    def close_sessions(self) -> None:
        """Closes all sessions for pushes."""
        self._pool.close_sessions()

    async def join(self, timeout: float) -> None:
        """Waits until every session has ended."""
        until = self._loop.time() + timeout
        while (left := until - self._loop.time()) > 0:
            if calls := self._pool.calls:
                await calls[0].join(left)
            elif self._pool.has_orphans and self._reconnector is not None:
                await asyncio.wait([self._reconnector], timeout=min(left, CHECK_SECONDS))
            else:
                return

    async def cancel(self, error: ElmanError) -> None:
        """Ends all RPCs and orphans at once; sessions still open raise `error`."""
        tasks: set[asyncio.Task[None]] = set()
        for call in self._pool.close(error):
            tasks |= call.abort(error)
        if self._reconnector is not None:
            self._reconnector.cancel()
            tasks.add(self._reconnector)
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
        self._alarm.stop()

    def new_call(self) -> StreamCall:
        """Part of `Shell`, like the next two methods."""
        return StreamCall(self._known, self._channels, self._options, self._pool)

    def need_reconnector(self) -> None:
        self._changed.set()
        if self._reconnector is None:
            self._reconnector = asyncio.create_task(self._reconnect(), name="elman-reconnector")

    def wake_reconnector(self) -> None:
        self._changed.set()
        if self._reconnector is None and not self._pool.calls:
            self._alarm.stop()

    async def _reconnect(self) -> None:
        try:
            while True:
                self._changed.clear()
                turn = self._pool.turn()
                if turn.at == inf:
                    return
                for call in turn.silent:
                    call.abort(Unavailable("the server did not answer"), final=False)
                try:
                    async with asyncio.timeout_at(turn.at):
                        await self._changed.wait()
                except TimeoutError:
                    pass
        finally:
            self._reconnector = None
            # If the caller cancels all tasks, no new task may be started: the orphans end here.
            self._pool.lose_orphans(Unavailable("the client's task was cancelled"))
