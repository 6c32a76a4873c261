"""Channels to a client's servers, one server at a time. The shell makes and closes the channels."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import inf
from time import monotonic
from typing import Generic, TypeVar

from elman.errors import ClientClosed

C = TypeVar("C")

_LEAVE_SECONDS = 1.0
"""Least seconds between two new connections of a client to a server without room."""


class ServerChannel(Generic[C]):
    """A channel leased by users. Closed once retired and unused."""

    def __init__(self, target: str, channel: C) -> None:
        self.target = target
        self.channel = channel
        self.users = 0
        self.retired = False
        self.worked = False
        """Whether any call on the channel was answered."""


class ServerChannels(Generic[C]):
    """Channels of a client, by target, with the current target. Thread-safe if `lock` is.

    A retired channel is replaced by a new connection to the next server, or to the same server if
    there are no others. A channel passed over stays while in use, and may become current again.
    """

    def __init__(
        self,
        targets: Sequence[str],
        make: Callable[[str], C],
        close: Callable[[C], None],
        *,
        lock: AbstractContextManager[object],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`lock` is held in each method; among threads it must exclude them."""
        self._clock = clock
        self._left_at = -inf
        self._targets = targets
        self._make = make
        self._close = close
        self._lock = lock
        self._closed = False
        # A random first server spreads many clients.
        self._next = random.randrange(len(targets))
        self._kept: dict[str, ServerChannel[C]] = {}
        """Usable channels, by target."""
        self._channels: set[ServerChannel[C]] = set()

    def lease(self) -> ServerChannel[C]:
        """Leases the current channel, until `give_back`. Raises `ClientClosed` after `close`."""
        with self._lock:
            if self._closed:
                raise ClientClosed("the client was closed")
            server_channel = self._kept.get(self._target)
            if server_channel is None:
                target = self._target
                server_channel = self._kept[target] = ServerChannel(target, self._make(target))
                self._channels.add(server_channel)
            server_channel.users += 1
            return server_channel

    @contextmanager
    def leased(self) -> Iterator[ServerChannel[C]]:
        """Leases the current channel during a `with` block."""
        server_channel = self.lease()
        try:
            yield server_channel
        finally:
            self.give_back(server_channel)

    def is_current(self, server_channel: ServerChannel[C]) -> bool:
        """Whether `lease` returns `server_channel` now."""
        with self._lock:
            return self._kept.get(self._target) is server_channel

    def pass_over(self, server_channel: ServerChannel[C]) -> None:
        """Makes the next server current for new work, if there are several.

        A single target may be a name with many addresses: the client then makes a new connection to
        any address, but at most one in `_LEAVE_SECONDS`.
        """
        with self._lock:
            if self._kept.get(self._target) is not server_channel:
                return
            now = self._clock()
            if len(self._targets) > 1:
                self._next += 1
            elif now - self._left_at >= _LEAVE_SECONDS:
                self._left_at = now
                del self._kept[server_channel.target]
            self._close_unused(server_channel)

    def leave(self, server_channel: ServerChannel[C]) -> None:
        """Uses another connection for new work: to the next server, or to any address of a name.

        The channel stays open for its present users.
        """
        with self._lock:
            if self._kept.get(server_channel.target) is not server_channel:
                return
            if server_channel.target == self._target:
                self._next += 1
            del self._kept[server_channel.target]
            self._close_unused(server_channel)

    def give_back(self, server_channel: ServerChannel[C]) -> None:
        with self._lock:
            server_channel.users -= 1
            self._close_unused(server_channel)

    def retire(self, server_channel: ServerChannel[C]) -> None:
        """Uses the channel for no new work, and makes the next server current."""
        with self._lock:
            if server_channel.retired:
                return
            server_channel.retired = True
            if self._kept.get(self._target) is server_channel:
                self._next += 1
            if self._kept.get(server_channel.target) is server_channel:
                del self._kept[server_channel.target]
            self._close_unused(server_channel)

    def close(self) -> None:
        """Closes all channels, used or unused. No channel can be leased afterwards."""
        with self._lock:
            self._closed = True
            channels, self._channels, self._kept = self._channels, set(), {}
        for server_channel in channels:
            self._close(server_channel.channel)

    @property
    def _target(self) -> str:
        return self._targets[self._next % len(self._targets)]

    def _close_unused(self, server_channel: ServerChannel[C]) -> None:
        current = self._kept.get(self._target) is server_channel
        if not current and not server_channel.users and server_channel in self._channels:
            self._channels.discard(server_channel)
            if self._kept.get(server_channel.target) is server_channel:
                del self._kept[server_channel.target]
            self._close(server_channel.channel)
