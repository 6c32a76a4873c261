"""Calls whose clients do not read: what the server holds for them is bounded in time and in bytes.

A client that answers pings and never takes what is written to it looks alive to gRPC, for as long
as it likes. Its sessions' predictions, its elements that wait for them to be taken, and the frame
that is being read stay in memory meanwhile.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Protocol

import structlog

_LOOK_SECONDS = 1.0
_LATE_SECONDS = 0.25
"""A write that is under way for less is no sign that a client does not read."""


class Call(Protocol):
    """A call with a client that may not read."""

    @property
    def unread_nbytes(self) -> int:
        """Bytes that are held until the client reads."""

    def give_up(self, why: str) -> None:
        """Ends the call; its sessions are cancelled."""


class SlowReaders:
    """The calls of a server with a write under way. Looks at them while there are any."""

    def __init__(
        self,
        *,
        timeout: float,
        max_nbytes: float,
        clock: Callable[[], float],
        given_up: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Calls whose client took nothing for `timeout` seconds are given up, and so are those that
        hold the most while all of them hold more than `max_nbytes`. `given_up` is told the
        reason: `slow` or `memory`."""
        self._timeout = timeout
        self._max_nbytes = max_nbytes
        self._clock = clock
        self._given_up = given_up
        self._since: dict[Call, float] = {}
        """In the order in which the writes began."""
        self._looking: asyncio.TimerHandle | None = None

    def writes(self, call: Call) -> None:
        """A write to a call's client begins."""
        self._since[call] = self._clock()
        if self._looking is None and (self._timeout != inf or self._max_nbytes != inf):
            self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def wrote(self, call: Call) -> None:
        """The write is over, however it went."""
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

    def _end(self, call: Call, reason: str, why: str) -> None:
        del self._since[call]
        self._given_up(reason)
        structlog.get_logger("elman.rpc").warning("a call was ended", why=why)
        call.give_up(why)
