"""A name server whose answers change, come late or not at all; and addresses that say nothing."""

import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from tests import needs
from tests.chaos.fleet import fixed_port
from tests.waiting import until

NAME = "elman.test"


class NameServer:
    """dnsmasq, for one name."""

    def __init__(self, folder: Path, *, ttl: int = 1) -> None:
        """`ttl`: seconds for which its answers may be remembered."""
        self._hosts = folder / "hosts"
        self._ttl = ttl

    def __enter__(self) -> Self:
        self._hosts.write_text("")
        program = needs.program("dnsmasq", "dnsmasq-base")
        self._port = fixed_port(Random(2))
        self._process = subprocess.Popen(
            [
                *(program, "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file"),
                *("--no-resolv", "--no-hosts", f"--addn-hosts={self._hosts}"),
                *(f"--port={self._port}", "--listen-address=127.0.0.1", "--bind-interfaces"),
                *(f"--local=/{NAME}/", f"--local-ttl={self._ttl}", "--user=root", "--group=root"),
            ],
            stderr=subprocess.DEVNULL,
        )
        until(self._listens)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    def target(self, port: int) -> str:
        """The name, with that port, for gRPC."""
        return f"dns://127.0.0.1:{self._port}/{NAME}:{port}"

    def resolve(self, addresses: Sequence[str]) -> None:
        """The name has these addresses from now on."""
        self._hosts.write_text("".join(f"{address} {NAME}\n" for address in addresses))
        self._process.send_signal(signal.SIGHUP)

    def pause(self) -> None:
        """It swallows what it is asked, until `resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def _listens(self) -> bool:
        assert self._process.poll() is None, "dnsmasq does not start"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0


class Hole:
    """Swallows what is sent to an address: a listener whose queue is full, so that the kernel drops
    all further attempts to connect, as for a machine that is gone."""

    def __init__(self, address: str, port: int) -> None:
        self._sockets = [socket.socket()]
        listener = self._sockets[0]
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(3):
            caller = socket.socket()
            caller.setblocking(False)
            caller.connect_ex((address, port))
            self._sockets.append(caller)

    def close(self) -> None:
        for each in self._sockets:
            each.close()
