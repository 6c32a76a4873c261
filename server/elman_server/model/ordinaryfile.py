"""Opening a file that a stranger named, without waiting for it or taking it for more than it is."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_ordinary(path: str | Path) -> tuple[BinaryIO, int]:
    """The file, to be closed by the caller, and its size.

    What was opened is what is looked at, so that nothing can take its place in between. Raises
    `OSError` with a reason in `strerror` for what can't be opened, and for a folder, a pipe, a
    socket or a device, none of which is waited for or read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError:
        raise OSError(0, "is no path of a file: it has a zero byte") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder, no ordinary file")
        raise OSError(0, "is a pipe, a socket or a device, no ordinary file")
    return os.fdopen(descriptor, "rb"), status.st_size


def read_ordinary(path: str | Path, most: int) -> bytes:
    """What an ordinary file holds, if that is at most so many bytes.

    Raises `OSError` as `open_ordinary` does, and for a file that is larger, before reading it.
    """
    file, size = open_ordinary(path)
    with file:
        if size > most:
            raise OSError(0, f"has {size:,} bytes; allowed are {most:,}")
        return file.read(size)
