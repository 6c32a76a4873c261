"""Progress of a long command, on standard error if it is a terminal.

The display is erased at the command's end.
"""

import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

from elman.cli.elements import Element

_PAUSE = 0.5
"""Seconds between two updates. An update takes a millisecond of a process possibly being
measured."""


@contextmanager
def countdown(what: str, seconds: float) -> Iterator[None]:
    """Shows the progress of work lasting about `seconds`."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    done = threading.Event()
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with _aside(console, *columns) as progress:
        task = progress.add_task(what, total=seconds)

        def draw() -> None:
            started = time.monotonic()
            while not done.wait(_PAUSE):
                progress.update(task, completed=time.monotonic() - started, refresh=True)

        thread = threading.Thread(target=draw, name="elman-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


class Tally:
    """Counts answered elements, and shows the share of the input if the input's size is known."""

    def __init__(self, source: int, *, shown: bool) -> None:
        """`source`: descriptor of the input. `shown`: whether to display, given a terminal."""
        status = os.fstat(source)
        self._nbytes = status.st_size if stat.S_ISREG(status.st_mode) else None
        console = Console(stderr=True)
        self._console = console if shown and console.is_terminal else None
        self._progress: Progress | None = None
        self._elements = self._read = 0
        self._started = self._drawn = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def add(self, element: Element) -> None:
        """Counts one answered element."""
        if self._console is None:
            return
        self._elements += 1
        # A line of numbers includes its newline; a character does not.
        self._read += len(element.text.encode()) + (not isinstance(element.value, str))
        now = time.monotonic()
        if now - self._drawn >= _PAUSE:
            self._drawn = now
            self._draw(self._console, now - self._started)

    def _draw(self, console: Console, seconds: float) -> None:
        if self._progress is None:
            columns: list[ProgressColumn] = [TextColumn("{task.description}"), TimeElapsedColumn()]
            if self._nbytes is not None:
                columns[1:1] = [BarColumn(), TextColumn("{task.percentage:>3.0f} %")]
            self._progress = _aside(console, *columns)
            self._progress.add_task("", total=self._nbytes)
            self._progress.start()
        rate = self._elements / seconds
        (task,) = self._progress.task_ids
        self._progress.update(
            task,
            description=f"{self._elements:,} elements, {rate:,.0f}/s",
            completed=self._read,
            refresh=True,
        )


def _aside(console: Console, *columns: ProgressColumn) -> Progress:
    """A progress display, erased at the end and separate from standard output."""
    return Progress(
        *columns,
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
