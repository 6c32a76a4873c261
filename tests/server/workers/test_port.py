"""A port is one server's, whose workers share it."""

import socket

import pytest

from elman_server.errors import StartError
from elman_server.workers.port import reserved

HOST = "127.0.0.1"


def listening(port: int, *options: int, host: str = HOST) -> socket.socket:
    found = socket.socket()
    try:
        for option in options:
            found.setsockopt(socket.SOL_SOCKET, option, 1)
        found.bind((host, port))
        found.listen(100)
    except OSError:
        found.close()
        raise
    return found


@pytest.mark.parametrize("host", [HOST, "localhost", "0.0.0.0", "::1", "::"])
def test_any_free_port_is_found_and_can_be_asked_for_again(host: str) -> None:
    with reserved(host, 0) as port:
        assert port > 0
    with reserved(host, port) as again:
        assert again == port


def test_connections_come_to_those_who_share_it_and_not_to_who_holds_it() -> None:
    with (
        reserved(HOST, 0) as port,
        listening(port, socket.SO_REUSEPORT) as one,
        listening(port, socket.SO_REUSEPORT) as two,
    ):
        for _ in range(50):
            socket.create_connection((HOST, port), timeout=5).close()
        came = [0, 0]
        for index, listener in enumerate((one, two)):
            listener.setblocking(False)
            while True:
                try:
                    listener.accept()[0].close()
                except BlockingIOError:
                    break
                came[index] += 1
    assert sum(came) == 50
    assert min(came) > 0


def test_nobody_else_can_take_it_while_no_worker_listens() -> None:
    with reserved(HOST, 0) as port:
        for options in ([], [socket.SO_REUSEADDR]):
            with pytest.raises(OSError, match="in use"):
                listening(port, *options)


def test_it_is_refused_where_another_server_holds_it() -> None:
    message = rf"^port \d+ on {HOST}: Address already in use$"
    with (
        reserved(HOST, 0) as port,
        pytest.raises(StartError, match=message),
        reserved(HOST, port),
    ):
        pass


def test_it_is_refused_where_somebody_listens_even_if_he_would_share_it() -> None:
    with (
        listening(0, socket.SO_REUSEPORT) as other,
        pytest.raises(StartError, match="Address already in use"),
        reserved(HOST, other.getsockname()[1]),
    ):
        pass


def test_an_address_of_another_machine_is_refused() -> None:
    with (
        pytest.raises(StartError, match=r"^port 0 on 192\.0\.2\.1: Cannot assign"),
        reserved("192.0.2.1", 0),
    ):
        pass
