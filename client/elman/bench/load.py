"""Parameters of a load."""

from dataclasses import dataclass
from math import inf, isfinite


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Sessions of one model, pushing random elements.

    The default is a closed loop: each session keeps `window` elements unanswered, and pushes an
    element after each answer. With a `rate`, the load is an open loop: elements arrive at random
    times, independent of answers. Latency counts from the due time of an element, so a slow server
    is charged for all delays. Raises `ValueError` for invalid parameters.
    """

    sessions: int = 64
    connections: int = 1
    """Number of connections, each with one RPC and an equal share of the sessions."""
    window: int = 1
    """Closed loop: unanswered elements per session."""
    rate: float = inf
    """Open loop: elements per second, over all sessions. inf: closed loop."""
    burst: float = 1.0
    """Open loop: mean number of elements arriving together for a session.

    Bursts arrive as a Poisson process; burst sizes are geometric.
    """
    ticket_every: int = 0
    """Number of elements between two tickets of a session; 0 for no tickets."""
    named: bool = False
    """Whether sessions are named, and so kept in the server's state store."""
    seconds: float = 5.0
    """Duration of the measurement."""
    warm_up: float = 0.5
    """Seconds of load before the measurement."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sessions", "connections", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed is 1 or more")
        if self.connections > self.sessions:
            raise ValueError(
                f"connections is {self.connections}; allowed is up to {self.sessions}, one for "
                "each session"
            )
        if self.ticket_every < 0:
            raise ValueError(f"ticket_every is {self.ticket_every}; allowed is 0 or more")
        if not self.rate > 0:
            raise ValueError(f"rate is {self.rate}; allowed is more than 0")
        if not (self.burst >= 1 and isfinite(self.burst)):
            raise ValueError(f"burst is {self.burst}; allowed is 1 or more")
        if not (self.seconds > 0 and isfinite(self.seconds)):
            raise ValueError(f"seconds is {self.seconds}; allowed is more than 0")
        if not (self.warm_up >= 0 and isfinite(self.warm_up)):
            raise ValueError(f"warm_up is {self.warm_up}; allowed is 0 or more")

    @property
    def open_loop(self) -> bool:
        return isfinite(self.rate)

    @property
    def shares(self) -> list[range]:
        """Sessions of each connection."""
        cuts = [self.sessions * number // self.connections for number in range(self.connections)]
        return [range(*pair) for pair in zip(cuts, [*cuts[1:], self.sessions], strict=True)]
