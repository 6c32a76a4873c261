"""A terminal in which a shell runs a command, as in a window of a desktop."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Self

import psutil

_PATIENCE_SECONDS = 60


class Terminal:
    """Entered when its command runs; on exit it is closed, and what still runs in it is killed."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        columns: int = 80,
    ) -> None:
        self._command = command
        self._env = {**os.environ, "TERM": "xterm", **(env or {})}
        self._env.pop("COLUMNS", None)
        self._window, self._inside = pty.openpty()
        self.resize(columns)
        self.shown = ""
        """All that the terminal was sent."""
        self._seen = 0

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            stdin=self._inside,
            stdout=self._inside,
            stderr=self._inside,
            env=self._env,
            start_new_session=True,
            # Makes it the controlling terminal of the new session.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
        self.process.wait()
        os.close(self._inside)
        self.close()

    @property
    def processes(self) -> list[psutil.Process]:
        """All that run in it."""
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    @property
    def modes(self) -> list[object]:
        """As `stty` tells them."""
        return list(termios.tcgetattr(self._inside))

    def resize(self, columns: int) -> None:
        """The kernel sends SIGWINCH."""
        fcntl.ioctl(self._window, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def type(self, text: str) -> None:
        """Keys, escape sequences among them."""
        os.write(self._window, text.encode())

    def shows(self, pattern: str) -> re.Match[str]:
        """Waits until it shows something like that after what was waited for before."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while (found := re.compile(pattern).search(self.shown, self._seen)) is None:
            left = end - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.shown[self._seen :]!r}"
            if select.select([self._window], [], [], left)[0]:
                self.shown += os.read(self._window, 65_536).decode(errors="replace")
        self._seen = found.end()
        return found

    def close(self) -> None:
        """As the user closes the window."""
        if self._window >= 0:
            os.close(self._window)
            self._window = -1

    def abandon(self) -> None:
        """Closes the window while its programs run; nobody else has the terminal open."""
        os.close(self._inside)
        self._inside = os.open(os.devnull, os.O_RDWR)
        self.close()
