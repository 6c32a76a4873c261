"""One port for several processes."""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from elman_server.errors import StartError

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """Keeps a port for processes of this user that share it with SO_REUSEPORT, and says which it
    is: `port`, or a free one for 0. Nobody else can take it, even while no worker lives.

    The sockets that hold it never listen, so no connection comes to them. They are bound alone and
    shared only then: with SO_REUSEPORT from the start, two servers on one port would not notice.
    Raises `StartError` if the port is taken, or where there is no SO_REUSEPORT.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise StartError("workers: this system can't share a port between processes")
    with ExitStack() as stack:
        try:
            for number, (family, address) in enumerate(_addresses(host)):
                try:
                    held = stack.enter_context(_held(family, address, port))
                except OSError as error:
                    # A name may stand for an address of IPv6 that this machine does not have.
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
    """Family and address of each that a name stands for, those of IPv4 first."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return sorted({(int(family), str(address[0])) for family, *_, address in found})
