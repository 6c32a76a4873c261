"""A client has one current connection. A connection in use is never closed."""

import threading
from typing import Any

import pytest

from elman._core.options import count_addresses, parse_targets
from elman._core.rpc.server_channels import ServerChannels
from elman.errors import InvalidRequest


class Connections:
    """Connections made and closed, in order."""

    def __init__(self, *targets: str) -> None:
        self.made: list[str] = []
        self.closed: list[str] = []
        self.now = 0.0
        self.channels = ServerChannels(
            targets,
            self._make,
            self.closed.append,
            lock=threading.Lock(),
            clock=lambda: self.now,
        )

    def _make(self, target: str) -> str:
        self.made.append(f"{target} {len(self.made)}")
        return self.made[-1]


def test_whoever_leases_shares_one_connection() -> None:
    connections = Connections("a")
    assert connections.made == []
    first, second = connections.channels.lease(), connections.channels.lease()
    assert first is second
    assert connections.made == ["a 0"]


def test_a_retired_connection_is_replaced_by_one_to_the_next_server() -> None:
    connections = Connections("a", "b", "c")
    seen = []
    for _ in range(6):
        link = connections.channels.lease()
        seen.append(link.target)
        connections.channels.retire(link)
        connections.channels.give_back(link)
    assert seen[:3] == seen[3:]
    assert sorted(seen[:3]) == ["a", "b", "c"]
    assert connections.closed == connections.made


def test_a_retired_connection_to_the_only_server_is_replaced_too() -> None:
    connections = Connections("a")
    connections.channels.retire(connections.channels.lease())
    assert connections.channels.lease().channel == "a 1"


def test_it_is_closed_when_the_last_one_gives_it_back() -> None:
    connections = Connections("a")
    link = connections.channels.lease()
    connections.channels.lease()
    connections.channels.retire(link)
    connections.channels.retire(link)
    connections.channels.give_back(link)
    assert connections.closed == []
    connections.channels.give_back(link)
    assert connections.closed == ["a 0"]


def test_one_that_is_not_retired_stays_open_for_the_next() -> None:
    connections = Connections("a")
    connections.channels.give_back(connections.channels.lease())
    assert connections.closed == []
    assert connections.channels.lease().channel == "a 0"


def test_closing_closes_each_once() -> None:
    connections = Connections("a", "b")
    used = connections.channels.lease()
    connections.channels.retire(used)
    connections.channels.lease()
    connections.channels.close()
    connections.channels.give_back(used)
    assert sorted(connections.closed) == sorted(connections.made)


def test_one_that_is_passed_over_is_found_again_while_it_is_used() -> None:
    connections = Connections("a", "b")
    first = connections.channels.lease()
    assert connections.channels.is_current(first)
    connections.channels.pass_over(first)
    second = connections.channels.lease()
    assert second.target != first.target
    assert not connections.channels.is_current(first)
    connections.channels.pass_over(second)
    assert connections.channels.lease() is first
    assert len(connections.made) == 2
    assert connections.closed == []
    connections.channels.give_back(second)
    assert connections.closed == [second.channel]


def test_of_one_target_another_address_is_tried_now_and_then() -> None:
    connections = Connections("a")
    for second in range(3):
        connections.now = float(second)
        link = connections.channels.lease()
        for _ in range(3):
            connections.channels.pass_over(link)
            link = connections.channels.lease()
    assert connections.made == ["a 0", "a 1", "a 2", "a 3"]
    assert connections.closed == [], "they are used"


def test_one_that_is_left_is_kept_for_those_who_use_it() -> None:
    connections = Connections("a")
    link = connections.channels.lease()
    connections.channels.leave(link)
    connections.channels.leave(link)
    assert not link.retired
    other = connections.channels.lease()
    assert other.channel == "a 1"
    connections.channels.leave(link)
    assert connections.channels.lease() is other
    assert connections.closed == []
    connections.channels.give_back(link)
    assert connections.closed == ["a 0"]


def test_threads_never_get_a_closed_one() -> None:
    connections = Connections("a", "b")
    wrong: list[str] = []

    def use() -> None:
        for number in range(500):
            link = connections.channels.lease()
            if link.channel in connections.closed:
                wrong.append(link.channel)
            if number % 7 == 0:
                connections.channels.retire(link)
            if number % 5 == 0:
                connections.channels.pass_over(link)
            if link.channel in connections.closed:
                wrong.append(link.channel)
            connections.channels.give_back(link)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(set(connections.closed)) == len(connections.closed) >= len(connections.made) - 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("localhost:50051", ("localhost:50051",)),
        ("a:1, b:2", ("a:1", "b:2")),
        (["a:1", "b:2"], ("a:1", "b:2")),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", ("ipv4:127.0.0.1:1,127.0.0.1:2",)),
        ("dns:///elman:50051", ("dns:///elman:50051",)),
        ("[::1]:50051", ("[::1]:50051",)),
        ("unix:/run/elman.sock", ("unix:/run/elman.sock",)),
    ],
)
def test_servers_are_named_in_a_list_or_with_commas(
    given: str | list[str], expected: tuple[str, ...]
) -> None:
    assert parse_targets(given) == expected


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        (["127.0.0.1:1"], 1),
        (["[::1]:50051", "10.0.0.1:1"], 2),
        (["ipv4:127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"], 3),
        (["ipv6:[::1]:1"], 1),
        (["unix:/run/elman.sock"], 1),
        (["localhost:50051"], 1),
        (["elman.example:50051"], 4),
        (["dns:elman.example:50051"], 4),
        (["dns://127.0.0.1:53/elman.example:50051", "a:1"], 8),
        (["dns:///10.0.0.1:50051"], 1),
    ],
)
def test_how_many_servers_there_may_be_is_seen_from_the_targets(
    targets: list[str], count: int
) -> None:
    assert count_addresses(targets) == count


@pytest.mark.parametrize(
    "given",
    [
        *("", [], "a:1,", [""], [7], None, 5, "localhost", "a:1,b", "::1", "localhost:"),
        *("localhost:0", "localhost:99999", "http://localhost:50051", "a b:1"),
    ],
)
def test_what_names_no_server_is_refused(given: Any) -> None:
    with pytest.raises(InvalidRequest, match="target"):
        parse_targets(given)
