"""Where a client can be used: in the process that made it and, of asyncio, on its event loop.

The threads and connections of a client do not outlive a fork, and its locks may be held for ever in
the child. So each use asks first, without a lock.
"""

import asyncio
import atexit
import os
import sys
from typing import NoReturn, Protocol
from weakref import WeakSet

from elman.errors import ClientUnusable


class Closable(Protocol):
    """Connections of a client."""

    def close(self) -> None:
        """All of them."""


_forks = 0
"""How many there were between this process and the one that imported this module."""
_connections: WeakSet[object] = WeakSet()
_inherited: list[object] = []
"""What a child never lets go: gRPC may wait for ever for a thread that is not there."""


def keep_in_children(connections: object) -> None:
    """A child that forgets a client does not finalise its connections."""
    _connections.add(connections)


_closed_at_exit: WeakSet[Closable] = WeakSet()


def close_at_exit(connections: Closable) -> None:
    """Closes them before the interpreter ends the threads that gRPC waits for to do so."""
    _closed_at_exit.add(connections)


def _exit() -> None:
    for connections in list(_closed_at_exit):
        connections.close()


atexit.register(_exit)


def _forked() -> None:
    global _forks
    _forks += 1
    _inherited.extend(_connections)
    _closed_at_exit.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Home:
    __slots__ = ("_fork", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Here and now. `loop`: of a client for asyncio."""
        self._fork = _forks
        self._loop = loop

    @property
    def forked(self) -> bool:
        """Whether this is another process."""
        return self._fork != _forks

    def check(self) -> None:
        """Raises `ClientUnusable` elsewhere."""
        if self._fork != _forks:
            raise ClientUnusable(
                "this client was connected before a fork, in another process: connect anew in "
                "this one"
            )
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise ClientUnusable(
                "this client was connected on another event loop: connect anew on this one"
            )


def check_gevent() -> None:
    """Raises `ClientUnusable` where gRPC would wait for ever."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return
    from grpc._cython import cygrpc  # type: ignore[attr-defined]

    if not getattr(cygrpc, "g_gevent_activated", True):
        raise ClientUnusable(
            "gevent has patched threads, under which gRPC hangs: call "
            "grpc.experimental.gevent.init_gevent() right after monkey.patch_all()"
        )


def refuse_pickle(what: str) -> NoReturn:
    """Raises `TypeError`, as Python does for what has threads and sockets."""
    instead = "connect in the process that uses it"
    if what == "Stream":
        instead = "send `stream.ticket()`, and go on there with `client.stream(model, ticket=...)`"
    raise TypeError(f"a {what} can't be pickled or copied: {instead}")
