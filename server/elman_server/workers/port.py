"""A port shared by several processes."""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from elman_server.errors import StartError

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """Reserves a port for processes of this user that share the port with SO_REUSEPORT.

    Yields the reserved port: `port`, or a free port for 0. No other process can take the port, even
    while no worker lives. The reserving sockets never listen, so they get no connections. Each
    socket is bound exclusively and shared only afterwards: with SO_REUSEPORT from the start, two
    servers could use the same port unnoticed. Raises `StartError` if the port is taken, or if the
    system has no SO_REUSEPORT.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise StartError("workers: this system can't share a port between processes")
    with ExitStack() as stack:
        try:
            for number, (family, address) in enumerate(_addresses(host)):
                try:
                    held = stack.enter_context(_held(family, address, port))
                except OSError as error:
                    # A name may resolve to an IPv6 address missing on this machine.
                    if number and error.errno in _NOT_HERE:
                        continue
                    raise
                port = port or held.getsockname()[1]
        except OSError as error:
            raise StartError(f"port {port} on {host}: {error.strerror}") from None
        yield port


def _held(family: int, address: str, port: int) -> socket.socket:
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((address, port))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        held.close()
        raise
    return held


def _addresses(host: str) -> list[tuple[int, str]]:
    """Resolves a host name to pairs of family and address, IPv4 first."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return sorted({(int(family), str(address[0])) for family, *_, address in found})
