"""The demo's server: a separate process on free ports of this machine."""

import json
import os
import subprocess
import sys
import threading
from collections import deque
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

from elman.cli.demo.failure import DemoFailed, require

_HOST = "127.0.0.1"
_READY_SECONDS = 60.0
_STOP_SECONDS = 20.0
_ARGUMENTS = (
    *("--demo", "--strict", "--host", _HOST),
    *("--port", "0", "--metrics-port", "0", "--log-format", "json"),
)


class DemoServer:
    """A server process, made by `start`. The end of the `with` block kills a process still
    running."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._last: deque[str] = deque(maxlen=3)
        self._ready: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="elman-demo-log", daemon=True)
        self._reader.start()
        self.target = ""
        self.metrics_url = ""

    @classmethod
    def start(cls) -> Self:
        """Starts a server and waits until it is ready. Raises `DemoFailed` otherwise."""
        # The demo ignores the user's own server settings, so it is equal for everyone.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ELMAN_")}
        server = cls(
            subprocess.Popen(
                [sys.executable, "-m", "elman_server", *_ARGUMENTS],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
        )
        try:
            server._wait()
        except BaseException:
            server._kill()
            raise
        return server

    def stop(self) -> None:
        """Stops the server like an operator. Raises `DemoFailed` unless the exit is clean."""
        require(self._process.poll() is None, f"the server died: {self._words()}")
        self._process.terminate()
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"the server did not stop within {_STOP_SECONDS:g} s") from None
        require(code == 0, f"the server's exit code was {code}: {self._words()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._kill()

    def _wait(self) -> None:
        try:
            line = self._ready.get(timeout=_READY_SECONDS)
        except Empty:
            raise DemoFailed(
                f"the server was not ready within {_READY_SECONDS:g} s: {self._words()}"
            ) from None
        if line is None:
            raise DemoFailed(f"the server did not start: {self._words()}")
        self.target = f"{_HOST}:{line['grpc_port']}"
        self.metrics_url = f"http://{_HOST}:{line['metrics_port']}/metrics"

    def _read(self) -> None:
        """Reads the log to its end, so that the server never blocks on the pipe."""
        assert self._process.stderr is not None
        for text in self._process.stderr:
            self._last.append(text.strip())
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and line.get("event") == "serving":
                self._ready.put(line)
        self._ready.put(None)

    def _words(self) -> str:
        """Last lines of the server's log."""
        return " | ".join(self._last) or "the server printed nothing"

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stderr is not None:
            self._process.stderr.close()
