"""Keepalive pings: interval, and limits of servers.

gRPC sends a ping after so many seconds of silence from the server, while any call is open. The
server's gRPC answers the ping, not the server's models, so a busy server does not seem dead.
"""

import logging
import warnings

from elman._core.options import check_seconds

DEFAULT_SECONDS = 5.0
LEAST_SECONDS = 5.0
"""Shortest interval allowed by an Elman server."""
ANSWER_SECONDS = 5.0
"""Deadline for the answer to a ping."""
_CAREFUL_SECONDS = 300.0
"""Shortest interval allowed by a gRPC server with default settings."""


def allowed(seconds: float) -> float:
    """Returns `seconds`, or the servers' minimum with a warning. Raises `InvalidRequest`."""
    check_seconds("keepalive", seconds)
    if seconds >= LEAST_SECONDS:
        return seconds
    warnings.warn(
        f"keepalive is {seconds:g}; servers allow {LEAST_SECONDS:g} s and more; the client uses "
        f"{LEAST_SECONDS:g}",
        UserWarning,
        stacklevel=3,
    )
    return LEAST_SECONDS


class Keepalive:
    """Keepalive of one client. `seconds` is the interval for the next connection."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def adapt(self, error: Exception) -> None:
        """Lengthens the interval if an RPC ended because of too many pings."""
        if "too many pings" not in str(error).lower().replace("_", " "):
            return
        if self.seconds < _CAREFUL_SECONDS:
            logging.getLogger("elman").warning(
                "the server does not allow a keepalive of %g s; the client uses %g s from now on",
                self.seconds,
                _CAREFUL_SECONDS,
            )
            self.seconds = _CAREFUL_SECONDS
