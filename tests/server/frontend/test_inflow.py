"""What came over a connection and is no message is counted, and lawful traffic is not."""

import socket
import struct

import pytest

from elman_server.frontend.grpcio.inflow import Inflow, most_held, received

FRAMING = 60
"""Bytes that a message takes on the wire beside itself, at the most that was seen."""


def test_whole_messages_hold_nothing() -> None:
    inflow, came = Inflow(0.0), 0
    inflow.calls = 1
    for second in range(1, 1000):
        for nbytes in (1, 20, 5000, 4_000_000):
            inflow.message(nbytes)
            came += nbytes + FRAMING + 9 * (nbytes // 16_384)
        inflow.wrote(1_000_000)
        came += 13 * 32
        assert inflow.held(came, float(second)) == 0


def test_the_beginnings_of_messages_are_held_until_they_end() -> None:
    inflow = Inflow(0.0)
    inflow.calls = 2
    assert inflow.held(1_000_000, 0.0) == 1_000_000
    assert inflow.held(3_999_000, 0.0) == 3_999_000
    inflow.message(4_000_000)
    assert inflow.held(4_000_060, 0.0) == 0


def test_many_small_messages_earn_no_credit_for_a_hoard() -> None:
    inflow, came = Inflow(0.0), 0
    inflow.calls = 1
    for _ in range(100):
        for _ in range(1000):
            inflow.message(1)
            came += 20
        inflow.held(came, 0.0)
    assert inflow.held(came + 10_000_000, 0.0) == 10_000_000


def test_what_is_no_message_at_all_is_held() -> None:
    inflow = Inflow(0.0)
    inflow.calls = 1
    assert inflow.held(50_000_000, 5.0) > 49_000_000


def test_pings_of_an_idle_connection_are_not() -> None:
    inflow = Inflow(0.0)
    inflow.calls = 1
    for hour in range(1, 1000):
        assert inflow.held(hour * 3600 // 5 * 34, hour * 3600.0) < 100


def test_what_calls_left_unread_goes_with_the_last_of_them() -> None:
    inflow = Inflow(0.0)
    inflow.calls = 1
    assert inflow.held(1_000_000, 0.0) == 1_000_000
    inflow.end()
    assert inflow.held(1_000_000, 0.0) == 0
    inflow.calls = 1
    assert inflow.held(1_500_000, 0.0) == 500_000


def test_what_comes_without_any_call_is_held() -> None:
    inflow = Inflow(0.0)
    assert inflow.held(100, 0.0) == 100
    assert inflow.held(9_000_000, 0.0) == 9_000_000


def test_a_new_connection_of_the_same_address_begins_anew() -> None:
    inflow = Inflow(0.0)
    inflow.calls = 1
    inflow.message(5_000_000)
    assert inflow.held(5_000_060, 0.0) == 0
    assert inflow.held(300_000, 0.0) == 300_000


@pytest.mark.parametrize(
    ("allowed", "gone"), [(100, []), (99, ["c"]), (50, ["c"]), (49, ["c", "a"]), (0, list("cab"))]
)
def test_those_that_hold_the_most_go_until_the_others_hold_little(
    allowed: float, gone: list[str]
) -> None:
    assert most_held({"a": 30, "b": 20, "c": 50}, allowed) == gone


def test_the_system_tells_what_came() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as connection,
    ):
        before = received(connection)
        if before is None:
            pytest.skip("this system does not tell")
        client.sendall(struct.pack("1000x"))
        connection.recv(1000, socket.MSG_WAITALL)
        assert received(connection) == before + 1000
