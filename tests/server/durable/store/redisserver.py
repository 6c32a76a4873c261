"""A Redis in a process of its own, for tests."""

import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests import needs

_ATTEMPTS = 5


class RedisServer:
    """Keeps nothing: started again it is empty. Has a port and a socket, the same all its life."""

    def __init__(self, folder: Path, *settings: str) -> None:
        """`settings`: more of redis-server's arguments."""
        self._folder = folder
        self._settings = settings
        self.port = 0
        self.socket = folder / "socket"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = needs.program("redis-server", "redis-server", need="redis")
        for _ in range(_ATTEMPTS):
            port = self.port or _free_port()
            self.process = subprocess.Popen(
                [
                    program,
                    *("--port", str(port), "--bind", "127.0.0.1"),
                    *("--unixsocket", str(self.socket), "--dir", str(self._folder)),
                    *("--save", "", "--appendonly", "no", *self._settings),
                ],
                stdout=subprocess.PIPE,
                text=True,
            )
            if self._ready():
                self.port = port
                return
            self.kill()  # somebody else took the port meanwhile
        pytest.fail("redis-server does not start")

    def pause(self) -> None:
        """It hears and says nothing until `resume`."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _ready(self) -> bool:
        assert self.process.stdout is not None
        return any("eady to accept connections" in line for line in self.process.stdout)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
