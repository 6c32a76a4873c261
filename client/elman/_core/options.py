"""How a client connects: its options, checked, and what they mean to a gRPC channel."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeAlias

import grpc

from elman.errors import InvalidRequest

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

_SERVICE_CONFIG = {"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": True}}]}
"""Of the addresses that a name has, any: so clients spread over them, and who connects anew may
come to another."""
_ADDRESS = re.compile(r"(\[[^\[\]/]+\]|[^:\[\]/\s]+):(?P<port>\d{1,6})")
_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
"""Of addresses that gRPC reads itself."""
MAX_FRAME_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `elman.connect` was told. Raises `InvalidRequest` for a value that is not allowed."""

    targets: tuple[str, ...]
    timeout: float
    connect_timeout: float
    max_message_bytes: int
    keepalive: float
    credentials: grpc.ChannelCredentials | None
    metadata: Metadata
    resume_timeout: float
    ticket_every: int

    def __post_init__(self) -> None:
        for name in ("timeout", "connect_timeout", "keepalive"):
            check_seconds(name, getattr(self, name))
        if self.resume_timeout != 0:
            check_seconds(
                "resume_timeout", self.resume_timeout, allowed="0, seconds above 0, or inf"
            )
        if not isinstance(self.ticket_every, int) or not 1 <= self.ticket_every < 2**32:
            raise InvalidRequest(
                f"ticket_every is {self.ticket_every!r}; allowed is 1 to {2**32 - 1}"
            )
        if self.max_message_bytes < 4096:
            raise InvalidRequest(
                f"max_message_bytes is {self.max_message_bytes}; allowed is at least 4096"
            )

    @property
    def max_frame_bytes(self) -> int:
        """A frame's elements, with room for the rest of the message."""
        return min(MAX_FRAME_BYTES, self.max_message_bytes // 2)

    def channel_arguments(self, keepalive: float, answer: float) -> list[tuple[str, str | int]]:
        """`keepalive`: seconds of silence before a ping, `answer`: seconds for its answer."""
        arguments: list[tuple[str, str | int]] = [
            ("grpc.max_send_message_length", self.max_message_bytes),
            # What comes is bounded by the windows, and its frames are the server's to cut.
            ("grpc.max_receive_message_length", -1),
            ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
            # Clients are connections, as one would think: gRPC would share one between those of a
            # process, and a server with several workers would have all of them in one.
            ("grpc.use_local_subchannel_pool", 1),
            # A server that is back is found within seconds, however long it was away.
            ("grpc.initial_reconnect_backoff_ms", 200),
            # For so long gRPC waits for a connection that is being made.
            ("grpc.min_reconnect_backoff_ms", round(min(self.connect_seconds, 20.0) * 1000)),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]
        if keepalive != float("inf"):
            milliseconds = round(answer * 1000)
            arguments += [
                ("grpc.keepalive_time_ms", max(1, round(keepalive * 1000))),
                ("grpc.keepalive_timeout_ms", milliseconds),
                # Newer versions of gRPC wait for the ping's own timeout, a minute.
                ("grpc.http2.ping_timeout_ms", milliseconds),
                ("grpc.http2.max_pings_without_data", 0),
            ]
        return arguments

    @property
    def connect_seconds(self) -> float:
        """What one of several servers gets of the connect timeout: it may be mute."""
        return self.connect_timeout / len(self.targets)

    @property
    def target(self) -> str:
        """For people."""
        return ", ".join(self.targets)

    @property
    def asked_ticket_every(self) -> int:
        """What sessions are opened with."""
        return self.ticket_every if self.resume_timeout else 0

    def unreachable(self, reason: str) -> str:
        return f"no server at {self.target} within {self.connect_timeout:g} s: {reason}"


def parse_targets(target: str | Sequence[str]) -> tuple[str, ...]:
    """One server, or several, in a list or separated by commas. Raises `InvalidRequest`."""
    # `ipv4:` and its like have commas of their own.
    if isinstance(target, str):
        several = not target.startswith(("ipv4:", "ipv6:"))
        targets = tuple(target.split(",")) if several else (target,)
    else:
        targets = tuple(target) if isinstance(target, Sequence) else ()
    if not targets or not all(isinstance(each, str) and each.strip() for each in targets):
        raise InvalidRequest(
            f"target is {target!r}; allowed are an address such as 'localhost:50051', or several"
        )
    for each in targets:
        _check_target(each.strip())
    return tuple(each.strip() for each in targets)


_NAME_ADDRESSES = 4
"""What a name is taken to have, for want of knowing."""


def count_addresses(targets: Sequence[str]) -> int:
    """How many servers there may be, as far as the targets tell."""
    return sum(map(_addresses, targets))


def _addresses(target: str) -> int:
    if target.startswith(("ipv4:", "ipv6:")):
        return target.count(",") + 1
    if target.startswith(("unix:", "unix-abstract:", "vsock:")):
        return 1
    host = target.rpartition("/")[2].removeprefix("dns:").rpartition(":")[0]
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return 1 if host == "localhost" else _NAME_ADDRESSES
    return 1


def _check_target(target: str) -> None:
    """Otherwise gRPC would look for it until the timeout, or take a port of its own."""
    if target.startswith(_SCHEMES):
        return
    found = _ADDRESS.fullmatch(target)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise InvalidRequest(
            f"target is {target!r}; allowed is HOST:PORT, with a port from 1 to 65535, such as "
            f"'localhost:50051', or what begins with {', '.join(_SCHEMES)}"
        )


def check_seconds(name: str, value: float, *, allowed: str = "seconds above 0, or inf") -> float:
    """`value`, if it is a duration. Raises `InvalidRequest` naming the field."""
    if not isinstance(value, int | float) or not value > 0:
        raise InvalidRequest(f"{name} is {value!r}; allowed are {allowed}")
    return value


def rpc_timeout(seconds: float) -> float | None:
    """A timeout as gRPC takes it."""
    return None if seconds == float("inf") else seconds


def check_window(window: int | None) -> int | None:
    """`window`, if it is one. Raises `InvalidRequest`."""
    if window is not None and (not isinstance(window, int) or window < 1):
        raise InvalidRequest(f"window is {window!r}; allowed are 1 and more, or None")
    return window
