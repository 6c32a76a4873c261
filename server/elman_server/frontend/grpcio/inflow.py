"""Bytes that came over a connection and have not become messages: the beginnings of messages that
do not end, which gRPC keeps for as long as their calls live, and frames that are no messages.

gRPC tells of whole messages only. How many bytes came over a connection says the system (TCP_INFO);
what is left of them after the messages that were read, and what these take on the wire beside
themselves, is held. Bytes of calls that ended before their messages were read are counted as well,
until their connection has no call.
"""

import socket
import struct
import sys
from collections.abc import Mapping

_MESSAGE_NBYTES = 256
"""That a message may take on the wire beside itself: framing, headers, window updates."""
_SHARE = 256
"""One byte in so many of a message, in either direction, may go into frames."""
_IDLE_NBYTES_PER_SECOND = 16
"""Pings of a connection over which nothing else comes."""
_RECEIVED = struct.Struct("128xQ")
"""`tcpi_bytes_received` of Linux's `struct tcp_info`, as of 4.1."""


class Inflow:
    """Of one connection."""

    __slots__ = ("_at", "_baseline", "_idle", "_received", "calls", "read")

    def __init__(self, now: float) -> None:
        self.calls = 0
        """Under way."""
        self._idle = False
        """Whether the last of its calls has ended since it was looked at."""
        self.read = 0
        """Bytes of messages, and what they may take beside themselves."""
        self._received = 0
        self._baseline = 0.0
        self._at = now

    def end(self) -> None:
        """A call ended."""
        self.calls -= 1
        self._idle |= not self.calls

    def message(self, nbytes: int) -> None:
        """A message of so many bytes was read."""
        self.read += nbytes + nbytes // _SHARE + _MESSAGE_NBYTES

    def wrote(self, nbytes: int) -> None:
        """A message was written, which its peer takes with frames of its own."""
        self.read += nbytes // _SHARE + _MESSAGE_NBYTES

    def held(self, received: int, now: float) -> float:
        """Bytes that are held, where so many came in all."""
        if received < self._received:  # another connection of the same address
            self.read, self._baseline = 0, 0.0
        self._received = received
        self._baseline += (now - self._at) * _IDLE_NBYTES_PER_SECOND
        self._at = now
        over = received - self.read
        if self._idle or over < self._baseline:
            # What its calls left unread went with them; and what messages may take and did not is
            # no credit for later.
            self._baseline = over
        self._idle = False
        return over - self._baseline


def most_held(held: Mapping[str, float], allowed: float) -> list[str]:
    """Connections without which the others hold no more than what is allowed; those that hold the
    most."""
    total = sum(held.values())
    found = []
    for peer, nbytes in sorted(held.items(), key=lambda each: -each[1]):
        if total <= allowed:
            break
        total -= nbytes
        found.append(peer)
    return found


def received(connection: socket.socket) -> int | None:
    """Bytes that came over a TCP connection; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED.size)
    except OSError:
        return None
    if len(info) < _RECEIVED.size:
        return None
    found: int = _RECEIVED.unpack(info)[0]
    return found
