"""Several servers that are killed, stopped and started again, each at an address of its own."""

import random
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from elman_server.durable.tickets.keys import new_key
from tests.serverprocess import ServerProcess

_SEED = 1
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def fixed_port(rng: random.Random) -> int:
    """A free one that the kernel gives to nobody by itself, so that it is still free for a server
    that is started again."""
    first = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32_768
    while True:
        port = rng.randrange(10_000, first)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Fleet:
    """Replicas of `elman serve ARGUMENTS` with one ticket key. Entered when all serve."""

    def __init__(
        self,
        count: int,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        envs: Sequence[Mapping[str, str]] | None = None,
        prefixes: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """`env`: in place of the ticket key. `envs`: what each of them has besides in its
        environment; `prefixes`: as `ServerProcess` has it."""
        self._prefixes = prefixes or [()] * count
        rng = random.Random(_SEED)
        self.ports = [fixed_port(rng) for _ in range(count)]
        self.arguments = arguments
        """Of those that are started from now on."""
        shared = {"ELMAN_TICKET_KEY": new_key()} if env is None else env
        self._envs = [{**shared, **own} for own in envs or [{}] * count]
        self._servers: list[ServerProcess | None] = [None] * count

    @property
    def targets(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.ports]

    def __enter__(self) -> Self:
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(self.start, range(len(self.ports))))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for server in self._servers:
            if server is not None:
                server.kill()

    def start(self, number: int, *more: str) -> None:
        """Returns when it serves."""
        port = str(self.ports[number])
        server = ServerProcess(
            *(*self.arguments, "--port", port, *more),
            env=self._envs[number],
            prefix=self._prefixes[number],
        )
        self._servers[number] = server
        server.__enter__()

    def kill(self, number: int) -> None:
        """SIGKILL."""
        self[number].kill()

    def terminate(self, number: int) -> None:
        """SIGTERM; returns when it has ended, as it should."""
        server = self[number]
        assert server.terminate() == 0
        server.kill()

    def __getitem__(self, number: int) -> ServerProcess:
        server = self._servers[number]
        assert server is not None
        return server

    def busy(self) -> list[int]:
        """Those that have sessions."""
        return [i for i in range(len(self.ports)) if self[i].metric("elman_sessions")]
