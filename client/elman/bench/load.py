"""What a server is to be loaded with."""

from dataclasses import dataclass
from math import inf, isfinite


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Sessions of one model that push random elements.

    Closed loop by default: each session keeps `window` elements unanswered and pushes another for
    each answer. With a `rate` it is an open loop: elements come when they come, answered or not,
    and their latency counts from when they were to be sent, so that a server that falls behind is
    not spared what it delays. Raises `ValueError` for what makes no sense.
    """

    sessions: int = 64
    connections: int = 1
    """Sessions are shared out evenly, each connection with one RPC for all of its own."""
    window: int = 1
    """Closed loop: elements that each session keeps unanswered."""
    rate: float = inf
    """Open loop: elements a second, of all sessions together. inf: closed loop."""
    burst: float = 1.0
    """Open loop: elements that come at once for a session, on average. Arrivals are a Poisson
    process of such bursts, whose sizes are geometric."""
    ticket_every: int = 0
    """Elements of a session after which it gets a ticket; 0: it gets none."""
    named: bool = False
    """Whether each session has a name, and so is kept in the server's state store."""
    seconds: float = 5.0
    """Measured."""
    warm_up: float = 0.5
    """Seconds before."""
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
        """The sessions of each connection."""
        cuts = [self.sessions * number // self.connections for number in range(self.connections)]
        return [range(*pair) for pair in zip(cuts, [*cuts[1:], self.sessions], strict=True)]
