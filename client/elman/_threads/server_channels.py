"""Connections to the servers that a client was told of, one at a time.

Which kind of gRPC channel they are is the shell's business.
"""

import random
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from math import inf
from time import monotonic
from typing import Any, Generic, TypeVar

from elman.errors import ClientClosed
from elman.v1.inference_pb2_grpc import InferenceStub

C = TypeVar("C")

_LEAVE_SECONDS = 1.0
"""A server that has no room does not get more connections from a client in so many seconds."""


class ServerChannel(Generic[C]):
    """A channel. Leased by whoever uses it; closed when it is retired and nobody does."""

    def __init__(self, target: str, channel: C) -> None:
        self.target = target
        self.channel = channel
        self.users = 0
        self.retired = False
        self.worked = False
        """Whether anything was answered on it."""

    @cached_property
    def stub(self) -> InferenceStub:
        channel: Any = self.channel
        stub: InferenceStub = InferenceStub(channel)
        return stub


class ServerChannels(Generic[C]):
    """Any number of threads may use it. A link that is retired is replaced by one to the next
    server, so whoever leases after that gets a new connection, even if there is but one server. One
    that is only passed over is kept for as long as somebody uses it, and found again."""

    def __init__(
        self,
        targets: Sequence[str],
        make: Callable[[str], C],
        close: Callable[[C], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._clock = clock
        self._left_at = -inf
        self._targets = targets
        self._make = make
        self._close = close
        self._lock = threading.Lock()
        self._closed = False
        # Anywhere, so that many clients do not all come to the first.
        self._next = random.randrange(len(targets))
        self._kept: dict[str, ServerChannel[C]] = {}
        """By target, those that are of use."""
        self._channels: set[ServerChannel[C]] = set()

    def lease(self) -> ServerChannel[C]:
        """The current one. `give_back` comes once it is not used any more. Raises `ClientClosed`
        after `close`."""
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

    def is_current(self, server_channel: ServerChannel[C]) -> bool:
        """Whether it is the one that is leased now."""
        with self._lock:
            return self._kept.get(self._target) is server_channel

    def pass_over(self, server_channel: ServerChannel[C]) -> None:
        """Whatever is new rather goes to the next server, if there is another. Of one target, which
        may be a name of many, to any: by another connection, but not often."""
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
        """Whatever is new gets another connection: to the next server or, of the addresses that a
        name has, to any. This one is kept for those who use it."""
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
        """It is of no use for anything new."""
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
        """All of them, used or not. There are no others after that."""
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
