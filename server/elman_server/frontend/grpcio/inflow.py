"""Bytes held for a connection: received, but not part of a whole message.

Such bytes are frames without messages, or the beginnings of endless messages. gRPC keeps the
beginning of a message as long as the call lives.

gRPC reports whole messages only. The operating system reports the bytes received over a connection
(TCP_INFO). Held bytes are the received bytes minus the bytes and wire overhead of read messages.
Unread messages of ended calls also count as held, until the connection has no call.
"""

import socket
import struct
import sys
from collections.abc import Mapping

_MESSAGE_NBYTES = 256
"""Bytes of wire overhead allowed for a message: framing, headers, window updates."""
_SHARE = 256
"""Message bytes, in either direction, per allowed byte of framing."""
_IDLE_NBYTES_PER_SECOND = 16
"""Bytes of pings allowed on an otherwise idle connection."""
_RECEIVED = struct.Struct("128xQ")
"""`tcpi_bytes_received` of Linux's `struct tcp_info`, since Linux 4.1."""


class Inflow:
    """Received, read and held bytes of a connection."""

    __slots__ = ("_at", "_baseline", "_idle", "_received", "calls", "read")

    def __init__(self, now: float) -> None:
        self.calls = 0
        """Calls under way."""
        self._idle = False
        """Whether, at some moment since the last check, the connection had no call."""
        self.read = 0
        """Bytes of read messages, with allowed overhead."""
        self._received = 0
        self._baseline = 0.0
        self._at = now

    def end(self) -> None:
        """Counts the end of a call."""
        self.calls -= 1
        self._idle |= not self.calls

    def message(self, nbytes: int) -> None:
        """Counts a read message."""
        self.read += nbytes + nbytes // _SHARE + _MESSAGE_NBYTES

    def wrote(self, nbytes: int) -> None:
        """Counts a written message, because the peer answers with frames, such as window
        updates."""
        self.read += nbytes // _SHARE + _MESSAGE_NBYTES

    def held(self, received: int, now: float) -> float:
        """Returns the held bytes, given the number of bytes received in total."""
        if received < self._received:  # a new connection with the same address
            self.read, self._baseline = 0, 0.0
        self._received = received
        self._baseline += (now - self._at) * _IDLE_NBYTES_PER_SECOND
        self._at = now
        over = received - self.read
        if self._idle or over < self._baseline:
            # Unread bytes of ended calls are freed. Allowed overhead that messages did not use is
            # no credit for later.
            self._baseline = over
        self._idle = False
        return over - self._baseline


def most_held(held: Mapping[str, float], allowed: float) -> list[str]:
    """Returns connections to close, so the rest hold at most `allowed` bytes. Connections with the
    most held bytes are closed first."""
    total = sum(held.values())
    found = []
    for peer, nbytes in sorted(held.items(), key=lambda each: -each[1]):
        if total <= allowed:
            break
        total -= nbytes
        found.append(peer)
    return found


def received(connection: socket.socket) -> int | None:
    """Returns the bytes received over a TCP connection; None if the system reports none."""
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
