"""A terminal in key-by-key mode, restored at the end and while the program is stopped."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType

_ENDING = ("SIGTERM", "SIGQUIT")

_Handler = Callable[[int, FrameType | None], None]


@contextmanager
def keys(descriptor: int) -> Iterator[int | None]:
    """Context manager: reads of `descriptor` return each key at once, without echo.

    Ctrl-C still interrupts, and Ctrl-Z stops the program until `fg`. Yields a descriptor, readable
    after a signal. Wait for both descriptors: the kernel may deliver a signal to a thread other
    than the handler's thread.

    Without such terminals (Windows), yields None; input then arrives line by line.
    """
    if sys.platform == "win32":
        yield None
        return
    modes = _Modes(descriptor)
    handlers = modes.handlers() if threading.current_thread() is threading.main_thread() else {}
    # Signals already ignored or handled keep their handlers.
    handlers = {
        number: handler
        for number, handler in handlers.items()
        if signal.getsignal(number) is signal.SIG_DFL
    }
    with _signals() if handlers else nullcontext() as signals:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        try:
            modes.set()
            yield signals
        finally:
            for number in handlers:
                signal.signal(number, signal.SIG_DFL)
            modes.restore()


@contextmanager
def _signals() -> Iterator[int]:
    """Yields the read end of a pipe with a byte for each handled signal."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)


class _Modes:
    """Modes of a terminal: as found, or key by key."""

    def __init__(self, descriptor: int) -> None:
        import termios

        self._descriptor = descriptor
        self._original = termios.tcgetattr(descriptor)

    def handlers(self) -> dict[signal.Signals, _Handler]:
        ending = {signal.Signals[name]: self._end for name in _ENDING}
        return {signal.SIGTSTP: self._stop, signal.SIGCONT: self._continue, **ending}

    def set(self) -> None:
        import termios

        modes = termios.tcgetattr(self._descriptor)
        modes[3] &= ~(termios.ECHO | termios.ICANON)
        modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
        self._apply(modes)

    def restore(self) -> None:
        self._apply(self._original)

    def _apply(self, modes: list[object]) -> None:
        import termios

        while True:
            try:
                # Keeps text typed ahead. In the background, the call stops the program until `fg`.
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, modes)  # type: ignore[arg-type]
                return
            except termios.error as error:
                if error.args[0] == errno.EIO:  # the terminal is gone
                    return
                if error.args[0] != errno.EINTR:
                    raise

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.restore()
        signal.signal(number, signal.SIG_DFL)
        # Sent to this thread, so the handler continues only after the program was stopped.
        signal.pthread_kill(threading.get_ident(), number)
        signal.signal(number, self._stop)

    def _continue(self, _number: int, _frame: FrameType | None) -> None:
        self.set()

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self.restore()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
