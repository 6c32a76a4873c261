"""A server in a process of its own, for tests and benchmarks."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

_START_SECONDS = 60
_PATIENCE_SECONDS = 30


class ServerProcess:
    """`elman serve ARGUMENTS` on free ports. Entered when it serves; killed on exit if it lives."""

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        module: str = "elman_server",
        prefix: Sequence[str] = (),
    ) -> None:
        """`module` is run as a program, and runs the server. `prefix`: a command that becomes the
        one that follows it, as `nice`."""
        self._prefix = prefix
        self._arguments = arguments
        self._module = module
        self._env = {**os.environ, **(env or {})}
        self.log: list[dict[str, Any]] = []
        """What the server logged so far."""
        self._serving = threading.Event()

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [
                *(*self._prefix, sys.executable, "-m", self._module),
                *("--port", "0", "--metrics-port", "0", "--log-format", "json"),
                *self._arguments,
            ],
            stderr=subprocess.PIPE,
            text=True,
            env=self._env,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        if not self._serving.wait(_START_SECONDS) or not self.log or not self.event("serving"):
            self.kill()
            raise RuntimeError(f"the server did not start: {self.log}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def target(self) -> str:
        return f"{self._host}:{self.event('serving')['grpc_port']}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self._host}:{self.event('serving')['metrics_port']}/metrics"

    @property
    def _host(self) -> str:
        """Where it is reached: one address of this machine, or any."""
        host = str(self.event("serving")["host"])
        return host if host.startswith("127.") else "127.0.0.1"

    def event(self, name: str) -> dict[str, Any]:
        """The first line of the log with that event, or an empty one."""
        return next((line for line in self.log if line.get("event") == name), {})

    def lines(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """The lines of the log with that event and these fields."""
        wanted = {"event": name, **fields}
        return [line for line in self.log if wanted.items() <= line.items()]

    def heard(self, name: str, **fields: Any) -> dict[str, Any]:
        """Waits for the first line of the log with that event and these fields."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while not (found := self.lines(name, **fields)):
            assert time.monotonic() < end, f"no {name!r} with {fields} in {self.log}"
            time.sleep(0.005)
        return found[0]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return sum(self.samples(name, **labels))

    def samples(self, name: str, **labels: str) -> list[float]:
        """A metric's samples that have these labels."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as response:
            text = response.read().decode()
        return [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def terminate(self, timeout: float = 60) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stderr is not None:
            self.process.stderr.close()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except json.JSONDecodeError:
                self.log.append({"event": line.rstrip()})
            if self.log[-1].get("event") == "serving":
                self._serving.set()
        self._serving.set()
