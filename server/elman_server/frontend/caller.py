"""The caller of a call: identity and address."""

from dataclasses import dataclass
from ipaddress import ip_network


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    identity: str = ""
    """Names in the caller's certificate; empty without a certificate. Tickets and names of
    sessions belong to an identity."""
    peer: str = ""
    """The connection's other end in gRPC's notation, such as ipv4:HOST:PORT."""

    @property
    def address(self) -> str:
        """The peer's address without the port, equal for all connections of a host. For IPv6, the
        64-bit network, because one host owns all addresses of the network."""
        kind, _, rest = self.peer.partition(":")
        host = rest.rpartition(":")[0]
        match kind:
            case "ipv4":
                return host
            case "ipv6":
                plain = host.strip("[]").partition("%")[0]
                return str(ip_network(f"{plain}/64", strict=False))
            case _:
                return kind
