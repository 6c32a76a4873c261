"""Connections of peers that are to go. gRPC for Python can't close one connection of a server: its
socket is found among the process's own and shut down, whereupon gRPC ends it with all its calls."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping

from elman_server.frontend.grpcio.inflow import received

_TOGETHER_SECONDS = 0.5
"""Those that are to go within this time are looked for together: for each look all of the process's
descriptors are gone through."""
_SWEEP_SECONDS = 5.0
"""Between two looks for connections without a call, where most places are taken."""
_LOOK_SECONDS = 0.2
"""Between two looks at what connections hold, while there are calls: much comes in a second."""
_IDLE_LOOK_SECONDS = 1.0
_LOOK_SHARE = 0.01
"""At most this share of the time goes into these looks."""
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
        self._bounding: asyncio.Task[None] | None = None

    def watch(self, port: int, most: int, busy: Callable[[], Collection[str]]) -> None:
        """From now on, where most of the `most` places of a port are taken, those connections are
        closed on which there was no call for two looks. `busy`: peers that have a call."""
        self._sweeping = asyncio.create_task(self._sweep(port, most, busy))

    def bound(
        self,
        port: int,
        held: Callable[[Mapping[str, int]], Collection[str]],
        busy: Callable[[], Collection[str]],
    ) -> None:
        """From now on, connections of a port are closed that hold too much. `held` is asked which,
        again and again, with the bytes that came over each. `busy`: peers that have a call."""
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
            with contextlib.suppress(OSError):  # no descriptor is left to look with
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
            with contextlib.suppress(OSError):  # no descriptor is left to look with
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
            try:
                found = await asyncio.to_thread(shut_down, doomed.keys())
            except OSError:  # no descriptor is left to look with: later there may be one
                self._doomed = doomed | self._doomed
                continue
            for peer in found:
                reason, why = doomed[peer]
                self._closed(reason, peer, why)
        self._cutting = None


def shut_down(peers: Collection[str]) -> list[str]:
    """Shuts the sockets down that are connected to these peers, and returns whose there were."""
    found = []
    for connection in _sockets():
        peer = _peer(connection)
        if peer in peers:
            with contextlib.suppress(OSError):  # its client was quicker
                connection.shutdown(socket.SHUT_RDWR)
            found.append(peer)
    return found


def received_by(port: int) -> dict[str, int]:
    """The bytes that came over each connection to a port of this process, by its peer."""
    came = {peer: received(connection) for peer, connection in _connections(port)}
    return {peer: nbytes for peer, nbytes in came.items() if nbytes is not None}


def connected(port: int) -> list[str]:
    """The peers that are connected to a port of this process."""
    return [peer for peer, _ in _connections(port)]


def _connections(port: int) -> Iterator[tuple[str, socket.socket]]:
    """Those to a port of this process, and their peers."""
    for connection in _sockets():
        peer = _peer(connection)
        if peer and _port(connection) == port:
            yield peer, connection


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
        with connection:
            yield connection


def _port(connection: socket.socket) -> int:
    """Its own; 0 where it is gone."""
    try:
        port: int = connection.getsockname()[1]
    except OSError:
        return 0
    return port


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
