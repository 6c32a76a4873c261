"""Limits on calls under way and their bytes, by server and by peer. Pure: no gRPC.

A peer is an address, with all its connections.
"""

from collections.abc import Callable
from dataclasses import dataclass

from elman_server.errors import Overloaded

_BURST_SECONDS = 10.0
"""Size of a burst, in seconds' worth of a peer's rate."""
_PEERS = 10_000
"""Threshold: at this number of peers, idle peers are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    calls: int
    """Calls under way at once."""
    calls_by_peer: int
    calls_a_second: float
    """Calls started by a peer; ten seconds' worth at once."""
    opens_a_second: float
    """Sessions opened by a peer; ten seconds' worth at once."""
    nbytes: int
    """Bytes of unary requests and answers. A single peer may hold half."""


class Bucket:
    """A token bucket: a rate per second, with ten seconds' worth at once."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._tokens = rate * _BURST_SECONDS
        self._at = now

    def take(self, now: float) -> bool:
        """Takes a token. Returns False if no token is left."""
        self._fill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def full(self, now: float) -> bool:
        """Whether the bucket is as full as a new bucket."""
        self._fill(now)
        return self._tokens >= self._rate * _BURST_SECONDS

    def _fill(self, now: float) -> None:
        most = self._rate * _BURST_SECONDS
        self._tokens = min(most, self._tokens + (now - self._at) * self._rate)
        self._at = now


class Peer:
    """Calls, held bytes and rates of an address."""

    __slots__ = ("calls", "nbytes", "opens", "started")

    def __init__(self, limits: CallLimits, now: float) -> None:
        self.calls = 0
        self.nbytes = 0
        self.started = Bucket(limits.calls_a_second, now)
        self.opens = Bucket(limits.opens_a_second, now)

    def idle(self, now: float) -> bool:
        """Whether the peer can be forgotten without losing information."""
        return not self.calls and self.started.full(now) and self.opens.full(now)


class Calls:
    """Counts calls under way and held bytes. Not thread-safe."""

    def __init__(
        self, limits: CallLimits, *, retry_after: float, clock: Callable[[], float]
    ) -> None:
        self._limits = limits
        self._retry_after = retry_after
        self._clock = clock
        self._peers: dict[str, Peer] = {}
        self._look_at = _PEERS
        self.under_way = 0
        self.nbytes = 0

    def begin(self, address: str, *, always: bool = False) -> Peer:
        """Counts a call until `end`. Raises `Overloaded`, except for a call to take `always`."""
        peer = self._peer(address)
        if not always:
            self._check(peer, address)
        self.under_way += 1
        peer.calls += 1
        return peer

    def _check(self, peer: Peer, address: str) -> None:
        if not peer.started.take(self._clock()):
            raise self._refused(
                "rate",
                f"more than {self._limits.calls_a_second:g} calls a second come from {address}",
            )
        if self.under_way >= self._limits.calls:
            raise self._refused(
                "calls", f"{self.under_way} calls are under way; max_calls is {self._limits.calls}"
            )
        if peer.calls >= self._limits.calls_by_peer:
            raise self._refused(
                "peer_calls",
                f"{peer.calls} calls of {address} are under way; max_peer_calls is "
                f"{self._limits.calls_by_peer}",
            )

    def end(self, peer: Peer) -> None:
        self.under_way -= 1
        peer.calls -= 1

    def open(self, address: str) -> None:
        """Counts an open of a session. Raises `Overloaded` if a peer opens too many a second."""
        if not self._peer(address).opens.take(self._clock()):
            raise self._refused(
                "rate",
                f"{address} opens more than {self._limits.opens_a_second:g} sessions a second",
            )

    def hold(self, peer: Peer, nbytes: int) -> None:
        """Counts bytes as held by a call until `free`. Raises `Overloaded`. While no bytes are
        held, any number is accepted, so a single large message is never refused."""
        most = self._limits.nbytes
        if self.nbytes and self.nbytes + nbytes > most:
            raise self._refused(
                "bytes",
                f"{self.nbytes} bytes of requests and answers are under way; max_unary_bytes is "
                f"{most}",
            )
        if peer.nbytes and peer.nbytes + nbytes > most // 2:
            raise self._refused(
                "bytes",
                f"{peer.nbytes} bytes of this peer's requests and answers are under way; allowed "
                f"is {most // 2}, half of max_unary_bytes",
            )
        self.nbytes += nbytes
        peer.nbytes += nbytes

    def free(self, peer: Peer, nbytes: int) -> None:
        self.nbytes -= nbytes
        peer.nbytes -= nbytes

    def _peer(self, address: str) -> Peer:
        peer = self._peers.get(address)
        if peer is None:
            now = self._clock()
            if len(self._peers) >= self._look_at:
                self._peers = {
                    known: peer for known, peer in self._peers.items() if not peer.idle(now)
                }
                self._look_at = max(_PEERS, 2 * len(self._peers))
            peer = self._peers[address] = Peer(self._limits, now)
        return peer

    def _refused(self, reason: str, message: str) -> Overloaded:
        return Overloaded(message, retry_after=self._retry_after, reason=reason)
