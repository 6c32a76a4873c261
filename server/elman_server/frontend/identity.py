"""Who calls, where the transport knows it."""

from ipaddress import ip_network
from typing import Any
from urllib.parse import unquote


def of(context: Any) -> str:
    """The names in the caller's certificate, if it showed one; otherwise empty."""
    names = context.peer_identities() or ()
    return "\n".join(sorted(name.decode(errors="replace") for name in names))


def peer(context: Any) -> str:
    """The other end of the connection, as gRPC names it: ipv4:HOST:PORT or the like."""
    return unquote(context.peer())


def address(peer: str) -> str:
    """A peer's address without its port: of all of its connections the same. Of IPv6 it is the
    network of 64 bits, as one host has all of its addresses."""
    kind, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0]
    match kind:
        case "ipv4":
            return host
        case "ipv6":
            plain = host.strip("[]").partition("%")[0]
            return str(ip_network(f"{plain}/64", strict=False))
        case _:
            return kind
