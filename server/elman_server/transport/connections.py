"""Connections of peers that are to go. gRPC for Python can't close one connection of a server: its
socket is found among the process's own and shut down, whereupon gRPC ends it with all its calls."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Collection, Iterator

_TOGETHER_SECONDS = 0.5
"""Those that are to go within this time are looked for together: for each look all of the process's
descriptors are gone through."""
_SWEEP_SECONDS = 5.0
"""Between two looks for connections without a call, where most places are taken."""
_CROWDED = 0.8
"""The share of the places from which on such connections are closed."""
_DESCRIPTORS = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"


class Connections:
    """For one event loop."""

    def __init__(self, closed: Callable[[str, str, str], None]) -> None:
        """`closed(reason, peer, why)`: told of each that was closed."""
        self._closed = closed
        self._doomed: dict[str, tuple[str, str]] = {}
        self._cutting: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None

    def watch(self, port: int, most: int, busy: Callable[[], Collection[str]]) -> None:
        """From now on, where most of the `most` places of a port are taken, those connections are
        closed on which there was no call for two looks. `busy`: peers that have a call."""
        self._sweeping = asyncio.create_task(self._sweep(port, most, busy))

    async def _sweep(self, port: int, most: int, busy: Callable[[], Collection[str]]) -> None:
        before: set[str] = set()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            idle: set[str] = set()
            if len(os.listdir(_DESCRIPTORS)) >= _CROWDED * most:
                there = await asyncio.to_thread(connected, port)
                if len(there) >= _CROWDED * most:
                    idle = set(there).difference(busy())
            for peer in idle & before:
                self.cut(peer, reason="idle", why="no call, and most connections are taken")
            before = idle

    def cut(self, peer: str, *, reason: str, why: str) -> None:
        """Closes the connection of a peer soon, if it is still there. `peer`: as gRPC names it,
        ipv4:HOST:PORT or the like; one without a port is left alone."""
        self._doomed.setdefault(peer, (reason, why))
        if self._cutting is None:
            self._cutting = asyncio.create_task(self._cut())

    async def _cut(self) -> None:
        while self._doomed:
            await asyncio.sleep(_TOGETHER_SECONDS)
            doomed, self._doomed = self._doomed, {}
            for peer in await asyncio.to_thread(shut_down, doomed.keys()):
                reason, why = doomed[peer]
                self._closed(reason, peer, why)
        self._cutting = None


def shut_down(peers: Collection[str]) -> list[str]:
    """Shuts the sockets down that are connected to these peers, and returns whose there were."""
    found = []
    for connection in _sockets():
        peer = _peer(connection)
        if peer in peers:
            connection.shutdown(socket.SHUT_RDWR)
            found.append(peer)
    return found


def connected(port: int) -> list[str]:
    """The peers that are connected to a port of this process."""
    return [
        peer
        for connection in _sockets()
        if (peer := _peer(connection)) and connection.getsockname()[1] == port
    ]


def _sockets() -> Iterator[socket.socket]:
    """All of this process's, one after another."""
    for name in os.listdir(_DESCRIPTORS):
        # Whatever happens to the number meanwhile, a duplicate stays the same socket.
        try:
            copy = os.dup(int(name))
        except OSError:  # closed meanwhile
            continue
        try:
            connection = socket.socket(fileno=copy)
        except OSError:  # some other file
            os.close(copy)
            continue
        with connection, contextlib.suppress(OSError):
            yield connection


def _peer(connection: socket.socket) -> str:
    """As gRPC names it; empty where there is none."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return ""
    try:
        host, port, *_ = connection.getpeername()
    except OSError:  # it listens, or its peer is gone
        return ""
    if connection.family == socket.AF_INET:
        return f"ipv4:{host}:{port}"
    if host.startswith("::ffff:"):
        return f"ipv4:{host.removeprefix('::ffff:')}:{port}"
    return f"ipv6:[{host}]:{port}"
