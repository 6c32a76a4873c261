"""Tries of a unary call, and of the first connection, on one server after another."""

from collections.abc import Callable
from time import monotonic
from typing import Any

from elman._core.options import Options
from elman._core.recovery.backoff import Backoff
from elman._core.rpc.server_channels import ServerChannel, ServerChannels
from elman._wire.status import CallFailure


class ConnectAttempts:
    """Tries to connect to any server, within the connect timeout."""

    def __init__(
        self,
        channels: ServerChannels[Any],
        options: Options,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._channels = channels
        self._share = options.connect_seconds
        self._until = clock() + options.connect_timeout
        self._clock = clock
        self._backoff = Backoff()
        # With one server, gRPC retries by itself; with several, the client tries the next.
        self.patient = len(options.targets) == 1
        """Whether to wait on after a failed try of gRPC."""

    @property
    def seconds(self) -> float:
        """Seconds to wait for the present server."""
        return min(self._until - self._clock(), self._share)

    def failed(self, server_channel: ServerChannel[Any]) -> float | None:
        """Returns the seconds to wait before the next try, or None if no time is left."""
        if self._clock() >= self._until:
            return None
        self._channels.retire(server_channel)
        return min(self._backoff.delay(), max(0.0, self._until - self._clock()))


class CallAttempts:
    """Tries of a stateless call, within the connect timeout and the call's own timeout."""

    def __init__(
        self,
        channels: ServerChannels[Any],
        *,
        connect_timeout: float,
        timeout: float | None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`timeout`: seconds for the call with all tries; None for no limit."""
        now = clock()
        self._channels = channels
        self._connect_timeout = connect_timeout
        self._until = now + connect_timeout
        self._call_until = None if timeout is None else now + timeout
        self._clock = clock
        self._backoff = Backoff()
        self._broke = False

    @property
    def remaining(self) -> float | None:
        """Seconds left for the call; None for no limit."""
        return None if self._call_until is None else max(0.0, self._call_until - self._clock())

    def failed(self, server_channel: ServerChannel[Any], failure: CallFailure) -> float | None:
        """Returns the seconds to wait before the next try, or None if there is none.

        Detecting a dead connection may take long. The time to reach a server starts anew, once, if
        the call failed on a connection with earlier answers.
        """
        if failure is CallFailure.FINAL:
            return None
        if server_channel.worked and not self._broke:
            self._broke = True
            self._until = self._clock() + self._connect_timeout
        left = self._until - self._clock()
        if left <= 0:
            return None
        if failure is CallFailure.UNAVAILABLE:
            self._channels.retire(server_channel)
        return min(self._backoff.delay(), left)
