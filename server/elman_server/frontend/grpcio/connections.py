"""Closing of single connections.

gRPC for Python can't close a single connection of a server. Therefore the module finds the
connection's socket among the process's descriptors and shuts the socket down. Then gRPC ends the
connection and all calls on the connection.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping

from elman_server.frontend.grpcio.inflow import received

_TOGETHER_SECONDS = 0.5
"""Time for collecting connections to close before a search. Each search goes through all
descriptors of the process."""
_SWEEP_SECONDS = 5.0
"""Seconds between two searches for connections without a call, while most places are taken."""
_LOOK_SECONDS = 0.2
"""Seconds between two checks of connections' held bytes, while there are calls. Many bytes may
arrive within a second."""
_IDLE_LOOK_SECONDS = 1.0
_LOOK_SHARE = 0.01
"""Largest share of the time spent on the checks of held bytes."""
_CROWDED = 0.8
"""Threshold, as a share of taken places, for closing connections without a call."""
_DESCRIPTORS = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"


class Connections:
    """Closes connections, for one event loop."""

    def __init__(self, closed: Callable[[str, str, str], None]) -> None:
        """`closed(reason, peer, why)` is called for each closed connection."""
        self._closed = closed
        self._doomed: dict[str, tuple[str, str]] = {}
        self._cutting: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._bounding: asyncio.Task[None] | None = None

    def watch(self, port: int, most: int, busy: Callable[[], Collection[str]]) -> None:
        """Starts to close idle connections of a port. A connection is closed if two consecutive
        searches find no call on the connection while most of the port's `most` places are taken.
        `busy` returns the peers with a call."""
        self._sweeping = asyncio.create_task(self._sweep(port, most, busy))

    def bound(
        self,
        port: int,
        held: Callable[[Mapping[str, int]], Collection[str]],
        busy: Callable[[], Collection[str]],
    ) -> None:
        """Starts to close connections of a port with too many held bytes. `held` is called
        repeatedly with the bytes received over each connection, and returns the connections to
        close. `busy` returns the peers with a call."""
        self._bounding = asyncio.create_task(self._bound(port, held, busy))

    async def _bound(
        self,
        port: int,
        held: Callable[[Mapping[str, int]], Collection[str]],
        busy: Callable[[], Collection[str]],
    ) -> None:
        delay = _LOOK_SECONDS
        while True:
            await asyncio.sleep(delay if busy() else max(delay, _IDLE_LOOK_SECONDS))
            with contextlib.suppress(OSError):  # no descriptor is free for the search
                began = time.monotonic()
                came = await asyncio.to_thread(received_by, port)
                delay = max(_LOOK_SECONDS, (time.monotonic() - began) / _LOOK_SHARE)
                if too_much := held(came):
                    for peer in await asyncio.to_thread(shut_down, too_much):
                        self._closed("partial", peer, "much of what it sent is no whole message")

    async def _sweep(self, port: int, most: int, busy: Callable[[], Collection[str]]) -> None:
        before: set[str] = set()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            idle: set[str] = set()
            with contextlib.suppress(OSError):  # no descriptor is free for the search
                if len(os.listdir(_DESCRIPTORS)) >= _CROWDED * most:
                    there = await asyncio.to_thread(connected, port)
                    if len(there) >= _CROWDED * most:
                        idle = set(there).difference(busy())
            for peer in idle & before:
                self.cut(peer, reason="idle", why="no call, and most connections are taken")
            before = idle

    def cut(self, peer: str, *, reason: str, why: str) -> None:
        """Closes the connection of a peer soon, if the connection still exists. `peer` is gRPC's
        name of the peer, such as ipv4:HOST:PORT. A peer without a port is ignored."""
        self._doomed.setdefault(peer, (reason, why))
        if self._cutting is None:
            self._cutting = asyncio.create_task(self._cut())

    async def _cut(self) -> None:
        while self._doomed:
            await asyncio.sleep(_TOGETHER_SECONDS)
            doomed, self._doomed = self._doomed, {}
            try:
                found = await asyncio.to_thread(shut_down, doomed.keys())
            except OSError:  # no descriptor is free for the search: try again later
                self._doomed = doomed | self._doomed
                continue
            for peer in found:
                reason, why = doomed[peer]
                self._closed(reason, peer, why)
        self._cutting = None


def shut_down(peers: Collection[str]) -> list[str]:
    """Shuts down the sockets connected to `peers`. Returns the peers found."""
    found = []
    for connection in _sockets():
        peer = _peer(connection)
        if peer in peers:
            with contextlib.suppress(OSError):  # the client closed it first
                connection.shutdown(socket.SHUT_RDWR)
            found.append(peer)
    return found


def received_by(port: int) -> dict[str, int]:
    """Bytes received over each connection to a port of the process, by peer."""
    came = {peer: received(connection) for peer, connection in _connections(port)}
    return {peer: nbytes for peer, nbytes in came.items() if nbytes is not None}


def connected(port: int) -> list[str]:
    """Peers connected to a port of the process."""
    return [peer for peer, _ in _connections(port)]


def _connections(port: int) -> Iterator[tuple[str, socket.socket]]:
    """Connections to a port of the process: peer and socket."""
    for connection in _sockets():
        peer = _peer(connection)
        if peer and _port(connection) == port:
            yield peer, connection


def _sockets() -> Iterator[socket.socket]:
    """Sockets of the process. Each is closed when the next is requested."""
    for name in os.listdir(_DESCRIPTORS):
        # A duplicate stays the same socket, even if the original number is closed and reused.
        try:
            copy = os.dup(int(name))
        except OSError:  # closed meanwhile
            continue
        try:
            connection = socket.socket(fileno=copy)
        except OSError:  # some other file
            os.close(copy)
            continue
        with connection:
            yield connection


def _port(connection: socket.socket) -> int:
    """Returns a socket's local port; 0 if the connection is gone."""
    try:
        port: int = connection.getsockname()[1]
    except OSError:
        return 0
    return port


def _peer(connection: socket.socket) -> str:
    """Returns gRPC's name of a socket's peer; empty without a peer."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return ""
    try:
        host, port, *_ = connection.getpeername()
    except OSError:  # a listening socket, or the peer is gone
        return ""
    if connection.family == socket.AF_INET:
        return f"ipv4:{host}:{port}"
    if host.startswith("::ffff:"):
        return f"ipv4:{host.removeprefix('::ffff:')}:{port}"
    return f"ipv6:[{host}]:{port}"
