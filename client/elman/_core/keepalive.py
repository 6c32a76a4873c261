"""How often a client asks whether its connection is still there, and what servers allow.

gRPC sends a ping after so many seconds without a word from the server, while any call is open. It
is the other end's gRPC that answers, not its models: a server with much to do is not taken for one
that is gone.
"""

import logging
import warnings

from elman._core.options import check_seconds

DEFAULT_SECONDS = 5.0
LEAST_SECONDS = 5.0
"""What an Elman server allows."""
ANSWER_SECONDS = 5.0
"""In which a ping must be answered."""
_CAREFUL_SECONDS = 300.0
"""What any gRPC server allows that was not told otherwise."""


def allowed(seconds: float) -> float:
    """`seconds`, or what servers allow, with a warning. Raises `InvalidRequest`."""
    check_seconds("keepalive", seconds)
    if seconds >= LEAST_SECONDS:
        return seconds
    warnings.warn(
        f"keepalive is {seconds:g}; servers allow {LEAST_SECONDS:g} s and more, so it is "
        f"{LEAST_SECONDS:g}",
        UserWarning,
        stacklevel=3,
    )
    return LEAST_SECONDS


class Keepalive:
    """Of one client: `seconds` for its next connection."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def heed(self, error: Exception) -> None:
        """An RPC has ended with this: if it was for too many pings, there are fewer from now on."""
        if "too many pings" not in str(error).lower().replace("_", " "):
            return
        if self.seconds < _CAREFUL_SECONDS:
            logging.getLogger("elman").warning(
                "the server does not allow a keepalive of %g s; it is %g s from now on",
                self.seconds,
                _CAREFUL_SECONDS,
            )
            self.seconds = _CAREFUL_SECONDS
