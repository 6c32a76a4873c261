"""The connection of one peer is closed, and no other."""

import asyncio
import os
import socket
from contextlib import ExitStack

import pytest

from elman_server.transport.connections import Connections, shut_down


@pytest.mark.parametrize(
    ("family", "host", "kind"),
    [(socket.AF_INET, "127.0.0.1", "ipv4:{}:{}"), (socket.AF_INET6, "::1", "ipv6:[{}]:{}")],
)
def test_only_the_peer_that_is_named_is_shut_down(
    family: socket.AddressFamily, host: str, kind: str
) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((host, 0), family=family))
        pairs = []
        for _ in range(3):
            client = stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
            pairs.append((client, stack.enter_context(listener.accept()[0])))
        before = len(os.listdir("/proc/self/fd"))
        name = kind.format(*pairs[1][0].getsockname()[:2])
        assert shut_down({name, "unix:"}) == [name]
        assert len(os.listdir("/proc/self/fd")) == before
        assert pairs[1][0].recv(1) == b""
        for client, server in (pairs[0], pairs[2]):
            server.sendall(b"x")
            assert client.recv(1) == b"x"


async def test_what_is_gone_already_is_not_told() -> None:
    told: list[str] = []
    connections = Connections(lambda reason, peer, why: told.append(peer))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server = listener.accept()[0]
        there = f"ipv4:127.0.0.1:{client.getsockname()[1]}"
        connections.cut("ipv4:127.0.0.1:1", reason="gone", why="")
        connections.cut(there, reason="there", why="")
        assert await asyncio.to_thread(client.recv, 1) == b""
        while not told:
            await asyncio.sleep(0.001)
        assert told == [there]
        client.close()
        server.close()
