"""A terminal that hands over each key at once, and is left as it was found: at the end, and while
the program is stopped."""

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
    """Inside, reads of `descriptor` return each key at once, unechoed; Ctrl-C still interrupts, and
    Ctrl-Z stops the program until `fg`.

    Yields a descriptor that is readable when a signal has come: who waits for a key has to wait for
    that too, as the kernel may hand a signal to a thread that does not run its handler.

    Does nothing where there are no such terminals: then a line is handed over at its end.
    """
    if sys.platform == "win32":
        yield None
        return
    modes = _Modes(descriptor)
    handlers = modes.handlers() if threading.current_thread() is threading.main_thread() else {}
    # What is ignored or handled already stays so.
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
    """A pipe with a byte for each signal that was handled."""
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
    """What a terminal does with keys: as it was found, or each handed over at once."""

    def __init__(self, descriptor: int) -> None:
        import termios

        self._descriptor = descriptor
        self._found = termios.tcgetattr(descriptor)

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
        self._apply(self._found)

    def _apply(self, modes: list[object]) -> None:
        import termios

        while True:
            try:
                # What was typed ahead is kept. In the background this stops the program until `fg`.
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
        # Of this thread: so it is not past here before the program has stopped.
        signal.pthread_kill(threading.get_ident(), number)
        signal.signal(number, self._stop)

    def _continue(self, _number: int, _frame: FrameType | None) -> None:
        self.set()

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self.restore()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
