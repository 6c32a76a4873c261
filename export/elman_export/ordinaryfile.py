"""Opening a file that a stranger named, without waiting for it or taking it for more than it is."""

import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_ordinary(path: str | Path) -> tuple[BinaryIO, int]:
    """The file, to be closed by the caller, and its size.

    Raises `OSError` with a reason in `strerror` for what can't be opened, and for a folder, a
    pipe, a socket or a device, none of which is waited for or read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise OSError(0, f"is {kind}, no ordinary file")
    return os.fdopen(descriptor, "rb"), status.st_size
