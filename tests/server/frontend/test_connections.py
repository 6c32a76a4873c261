"""The connection of one peer is closed, and no other."""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack

import pytest

from elman_server.frontend.grpcio import connections
from elman_server.frontend.grpcio.connections import Connections, shut_down

RESET = struct.pack("ii", 1, 0)
"""Of SO_LINGER: a close resets the connection."""


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


async def test_a_look_that_fails_is_no_end_of_all_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where no descriptor is left, or a client is quicker than the look."""
    told: list[str] = []
    looks: Iterator[OSError | list[str]] = iter(
        [OSError(errno.EMFILE, "too many open files"), ["first"], ["second"]]
    )

    def shut_down(peers: Collection[str]) -> list[str]:
        look = next(looks)
        if isinstance(look, OSError):
            raise look
        return look

    monkeypatch.setattr(connections, "shut_down", shut_down)
    monkeypatch.setattr(connections, "_TOGETHER_SECONDS", 0.0)
    cutter = Connections(lambda reason, peer, why: told.append(peer))
    for peer in ("first", "second"):
        cutter.cut(peer, reason="", why="")
        async with asyncio.timeout(30):
            while peer not in told:
                await asyncio.sleep(0.001)
    assert told == ["first", "second"]


def test_a_client_that_resets_meanwhile_does_not_save_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        pairs = []
        for _ in range(2):
            client = stack.enter_context(socket.create_connection(listener.getsockname()))
            pairs.append((client, stack.enter_context(listener.accept()[0])))
        names = [f"ipv4:127.0.0.1:{client.getsockname()[1]}" for client, _ in pairs]
        peer_of = connections._peer

        def peer(connection: socket.socket) -> str:
            found = peer_of(connection)
            if found == names[0]:
                pairs[0][0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                pairs[0][0].close()
            return found

        monkeypatch.setattr(connections, "_peer", peer)
        assert set(shut_down(names)) == set(names)
        assert pairs[1][0].recv(1) == b""


async def test_what_connections_hold_is_looked_at_again_after_a_look_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0
    looked = asyncio.Event()

    def received_by(port: int) -> dict[str, int]:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise OSError("no descriptor is left")
        return {"ipv4:127.0.0.1:1": 5}

    def held(came: Mapping[str, int]) -> list[str]:
        assert came == {"ipv4:127.0.0.1:1": 5}
        looked.set()
        return []

    monkeypatch.setattr(connections, "received_by", received_by)
    monkeypatch.setattr(connections, "_LOOK_SECONDS", 0.0)
    watched = Connections(lambda reason, peer, why: None)
    watched.bound(1, held, lambda: ["ipv4:127.0.0.1:1"])
    await asyncio.wait_for(looked.wait(), 30)
    assert watched._bounding is not None
    watched._bounding.cancel()
