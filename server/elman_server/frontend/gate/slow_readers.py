"""Limits, in time and bytes, on the memory held for clients that do not read.

To gRPC, a client that answers pings but never reads looks alive forever. Meanwhile the client's
predictions, the elements waiting behind the predictions, and the frame being taken stay in memory.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Protocol

import structlog

_LOOK_SECONDS = 1.0
_LATE_SECONDS = 0.25
"""A shorter write is no sign of a client that does not read."""


class Reader(Protocol):
    """A call whose client may not read."""

    @property
    def unread_nbytes(self) -> int:
        """Bytes held in memory until the client reads."""

    def give_up(self, why: str) -> None:
        """Ends the call and cancels its sessions."""


class SlowReaders:
    """Calls of a server with a write under way. Checks the calls regularly while there are any."""

    def __init__(
        self,
        *,
        timeout: float,
        max_nbytes: float,
        clock: Callable[[], float],
        given_up: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Ends calls whose client has read nothing for `timeout` seconds. While all calls with late
        writes together hold more than `max_nbytes`, also ends the calls with the most held bytes.
        `given_up` is called with the reason, `slow` or `memory`."""
        self._timeout = timeout
        self._max_nbytes = max_nbytes
        self._clock = clock
        self._given_up = given_up
        self._since: dict[Reader, float] = {}
        """Start times of the writes, oldest first."""
        self._looking: asyncio.TimerHandle | None = None

    def writes(self, call: Reader) -> None:
        """Records the start of a write to a call's client."""
        self._since[call] = self._clock()
        if self._looking is None and (self._timeout != inf or self._max_nbytes != inf):
            self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def wrote(self, call: Reader) -> None:
        """Records the end of the write, successful or not."""
        self._since.pop(call, None)

    def _look(self) -> None:
        self._looking = None
        now = self._clock()
        late = {call: since for call, since in self._since.items() if now - since >= _LATE_SECONDS}
        for call, since in late.items():
            if now - since >= self._timeout:
                self._end(call, "slow", f"its client has read nothing for {self._timeout:g} s")
        held = {call: call.unread_nbytes for call in late if call in self._since}
        total = sum(held.values())
        for call, nbytes in sorted(held.items(), key=lambda each: -each[1]):
            if total <= self._max_nbytes:
                break
            total -= nbytes
            self._end(
                call,
                "memory",
                f"its client does not read, and {nbytes} bytes are held for it; for all clients "
                f"that do not read, allowed are {self._max_nbytes:g}",
            )
        if self._since:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _end(self, call: Reader, reason: str, why: str) -> None:
        del self._since[call]
        self._given_up(reason)
        structlog.get_logger("elman.rpc").warning("a call was ended", why=why)
        call.give_up(why)
