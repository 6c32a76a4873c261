"""Process and event loop of a client.

A client works only in the process of `connect`, and an asyncio client only on the event loop of
`connect`. Threads and connections of a client do not survive a fork, and a lock may stay held for
ever in the child. So each call checks the process first, without a lock.
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
        """Closes all connections."""


_forks = 0
"""Number of forks between the importing process and the present process."""
_connections: WeakSet[object] = WeakSet()
_inherited: list[object] = []
"""References kept for ever in a child process: gRPC's finalisers may wait for ever for a missing
thread."""


def keep_in_children(connections: object) -> None:
    """Keeps the connections from being finalised in a child process."""
    _connections.add(connections)


_closed_at_exit: WeakSet[Closable] = WeakSet()


def close_at_exit(connections: Closable) -> None:
    """Closes the connections at exit, before the interpreter ends the threads needed for
    closing."""
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
        """Records the present process. `loop`: the event loop of an asyncio client."""
        self._fork = _forks
        self._loop = loop

    @property
    def forked(self) -> bool:
        """Whether the present process is a child of the client's process."""
        return self._fork != _forks

    def check(self) -> None:
        """Raises `ClientUnusable` in another process or on another event loop."""
        if self._fork != _forks:
            raise ClientUnusable(
                "this client was connected before a fork, in another process: connect again in "
                "this process"
            )
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise ClientUnusable(
                "this client was connected on another event loop: connect again on this event loop"
            )


def check_gevent() -> None:
    """Raises `ClientUnusable` if gRPC would wait for ever under gevent."""
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
    """Raises `TypeError`, as Python does for objects with threads and sockets."""
    instead = f"connect in the process that uses the {what}"
    if what == "Stream":
        instead = "send `stream.ticket()`, and resume there with `client.stream(model, ticket=...)`"
    raise TypeError(f"a {what} can't be pickled or copied: {instead}")
