"""Calls, bytes and sessions are bounded by server and by peer."""

from collections.abc import Callable

import pytest

from elman_server.errors import Overloaded
from elman_server.frontend.caller import Caller
from elman_server.frontend.gate import call_limits
from elman_server.frontend.gate.call_limits import Bucket, CallLimits, Calls, Peer

LIMITS = CallLimits(calls=3, calls_by_peer=2, calls_a_second=100, opens_a_second=1, nbytes=1000)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(clock: Clock) -> Calls:
    return Calls(LIMITS, retry_after=2.5, clock=clock)


def reason(act: Callable[[], object]) -> str:
    """Why it is refused."""
    with pytest.raises(Overloaded) as caught:
        act()
    assert caught.value.retry_after == 2.5
    return caught.value.reason


def test_a_call_beyond_the_servers_is_refused_and_one_that_ended_makes_room(table: Calls) -> None:
    peers = [table.begin(address) for address in ("a", "a", "b")]
    assert table.under_way == 3
    assert reason(lambda: table.begin("c")) == "calls"
    table.end(peers[0])
    table.begin("c")


def test_a_peer_has_its_own_limit_beside_the_servers(table: Calls) -> None:
    for _ in range(2):
        table.begin("a")
    assert reason(lambda: table.begin("a")) == "peer_calls"
    table.begin("b")


def test_what_is_always_taken_is_counted_all_the_same(table: Calls) -> None:
    for _ in range(10):
        peer = table.begin("a", always=True)
    assert (table.under_way, peer.calls) == (10, 10)


def test_a_rate_lets_ten_seconds_worth_through_at_once(clock: Clock) -> None:
    bucket = Bucket(5, clock())
    assert [bucket.take(clock()) for _ in range(51)] == [True] * 50 + [False]
    clock.now += 1
    assert [bucket.take(clock()) for _ in range(6)] == [True] * 5 + [False]
    clock.now += 3600
    assert bucket.full(clock())
    assert [bucket.take(clock()) for _ in range(51)] == [True] * 50 + [False]


def test_calls_that_come_too_fast_are_refused_to_their_peer_alone(
    table: Calls, clock: Clock
) -> None:
    for _ in range(1000):
        table.end(table.begin("a"))
    assert reason(lambda: table.begin("a")) == "rate"
    table.end(table.begin("b"))
    clock.now += 0.01
    table.end(table.begin("a"))


def test_sessions_that_are_opened_too_fast_are_refused(table: Calls, clock: Clock) -> None:
    for _ in range(10):
        table.open("a")
    assert reason(lambda: table.open("a")) == "rate"
    table.open("b")
    clock.now += 1
    table.open("a")


def test_bytes_are_bounded_of_one_peer_and_of_all(table: Calls) -> None:
    a, b, c = (table.begin(address) for address in "abc")
    table.hold(a, 500)
    assert reason(lambda: table.hold(a, 1)) == "bytes"
    table.hold(b, 500)
    assert reason(lambda: table.hold(c, 1)) == "bytes"
    table.free(a, 500)
    table.hold(c, 1)
    assert (table.nbytes, a.nbytes, b.nbytes, c.nbytes) == (501, 0, 500, 1)


def test_a_request_larger_than_the_limit_is_served_where_it_is_alone(table: Calls) -> None:
    table.hold(table.begin("a"), 5000)


def test_peers_that_are_idle_are_forgotten(
    table: Calls, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_limits, "_PEERS", 10)
    table = Calls(LIMITS, retry_after=2.5, clock=clock)
    busy = table.begin("busy")
    for number in range(9):
        table.end(table.begin(str(number)))
    clock.now += 1
    table.end(table.begin("new"))
    assert set(table._peers) == {"busy", "new"}
    assert table._peers["busy"] is busy
    assert isinstance(busy, Peer)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:1234", "10.0.0.1"),
        ("ipv6:[2001:db8::1]:1234", "2001:db8::/64"),
        ("ipv6:[2001:db8::ffff:1]:99", "2001:db8::/64"),
        ("ipv6:[fe80::1%eth0]:1234", "fe80::/64"),
        ("unix:", "unix"),
        ("unix:/tmp/socket", "unix"),
    ],
)
def test_a_peers_address_is_that_of_all_of_its_connections(peer: str, address: str) -> None:
    assert Caller(peer=peer).address == address
