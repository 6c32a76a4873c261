"""A terminal that hands over each key at once, and is left as it was found."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def keys(descriptor: int) -> Iterator[None]:
    """Inside, reads of `descriptor` return each key at once, unechoed; Ctrl-C still interrupts.

    Does nothing where there are no such terminals: then a line is handed over at its end.
    """
    if sys.platform == "win32":
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    try:
        # What was typed ahead is kept.
        tty.setcbreak(descriptor, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
