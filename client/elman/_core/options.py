"""Options of a connection, checked, and the matching arguments for a gRPC channel."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeAlias

from elman.errors import InvalidRequest

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

_SERVICE_CONFIG = {"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": True}}]}
"""Random choice among a name's addresses: spreads new and reconnecting clients."""
_ADDRESS = re.compile(r"(\[[^\[\]/]+\]|[^:\[\]/\s]+):(?P<port>\d{1,6})")
_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
"""Prefixes of addresses in gRPC's own formats."""
MAX_FRAME_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Arguments of `elman.connect`. Raises `InvalidRequest` for a value not allowed."""

    targets: tuple[str, ...]
    timeout: float
    connect_timeout: float
    max_message_bytes: int
    keepalive: float
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
        """Limit for the elements of a frame, leaving room for the rest of the message."""
        return min(MAX_FRAME_BYTES, self.max_message_bytes // 2)

    def channel_arguments(self, keepalive: float, answer: float) -> list[tuple[str, str | int]]:
        """Arguments for a gRPC channel.

        `keepalive`: seconds of silence before a ping. `answer`: seconds for the ping's answer.
        """
        arguments: list[tuple[str, str | int]] = [
            ("grpc.max_send_message_length", self.max_message_bytes),
            # The windows bound the size of answers, and the server cuts its frames.
            ("grpc.max_receive_message_length", -1),
            ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
            # One connection per client. gRPC would share a connection among all clients of a
            # process, and a server with several workers would serve all of them in one worker.
            ("grpc.use_local_subchannel_pool", 1),
            # Finds a returning server within seconds, however long it was away.
            ("grpc.initial_reconnect_backoff_ms", 200),
            # gRPC's timeout for a connection attempt.
            ("grpc.min_reconnect_backoff_ms", round(min(self.connect_seconds, 20.0) * 1000)),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]
        if keepalive != float("inf"):
            milliseconds = round(answer * 1000)
            arguments += [
                ("grpc.keepalive_time_ms", max(1, round(keepalive * 1000))),
                ("grpc.keepalive_timeout_ms", milliseconds),
                # Newer versions of gRPC use the ping's own timeout instead, a minute by default.
                ("grpc.http2.ping_timeout_ms", milliseconds),
                ("grpc.http2.max_pings_without_data", 0),
            ]
        return arguments

    @property
    def connect_seconds(self) -> float:
        """Share of the connect timeout for each of several servers, since a server may be mute."""
        return self.connect_timeout / len(self.targets)

    @property
    def target(self) -> str:
        """Targets as text for people."""
        return ", ".join(self.targets)

    @property
    def session_ticket_every(self) -> int:
        """Value of `ticket_every` for new sessions; 0 without resuming."""
        return self.ticket_every if self.resume_timeout else 0

    def unreachable(self, reason: str) -> str:
        return f"no server at {self.target} within {self.connect_timeout:g} s: {reason}"


def parse_targets(target: str | Sequence[str]) -> tuple[str, ...]:
    """Returns one target, or several given in a list or separated by commas.

    Raises `InvalidRequest`.
    """
    # Addresses of `ipv4:` and `ipv6:` contain commas.
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
"""Assumed number of addresses of a name, as the true number is unknown."""


def count_addresses(targets: Sequence[str]) -> int:
    """Estimates the number of servers from the targets."""
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
    """Checks the format. gRPC would retry an invalid target until the timeout, or choose a port."""
    if target.startswith(_SCHEMES):
        return
    match = _ADDRESS.fullmatch(target)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise InvalidRequest(
            f"target is {target!r}; allowed is HOST:PORT, with a port from 1 to 65535, such as "
            f"'localhost:50051', or what begins with {', '.join(_SCHEMES)}"
        )


def check_seconds(name: str, value: float, *, allowed: str = "seconds above 0, or inf") -> float:
    """Returns `value`, a duration in seconds. Raises `InvalidRequest` naming the field."""
    if not isinstance(value, int | float) or not value > 0:
        raise InvalidRequest(f"{name} is {value!r}; allowed are {allowed}")
    return value


def rpc_timeout(seconds: float) -> float | None:
    """Converts a timeout for gRPC: None for inf."""
    return None if seconds == float("inf") else seconds


def check_window(window: int | None) -> int | None:
    """Returns `window`, a limit or None. Raises `InvalidRequest`."""
    if window is not None and (not isinstance(window, int) or window < 1):
        raise InvalidRequest(f"window is {window!r}; allowed are 1 and more, or None")
    return window
