"""Identity and address of a caller, from gRPC's context."""

from ipaddress import ip_network
from typing import Any
from urllib.parse import unquote


def of(context: Any) -> str:
    """Returns the names in the caller's certificate; empty without a certificate."""
    names = context.peer_identities() or ()
    return "\n".join(sorted(name.decode(errors="replace") for name in names))


def peer(context: Any) -> str:
    """Returns gRPC's name of the connection's other end, such as ipv4:HOST:PORT."""
    return unquote(context.peer())


def address(peer: str) -> str:
    """Returns a peer's address without the port, equal for all connections of a host. For IPv6,
    returns the 64-bit network, because one host owns all addresses of the network."""
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
