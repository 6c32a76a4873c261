"""Safe opening of regular files with untrusted paths: never blocks on a pipe or a device."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_ordinary(path: str | Path) -> tuple[BinaryIO, int]:
    """Opens a regular file and returns the file, to be closed by the caller, and its size.

    The checks run on the open descriptor, so the file can't be replaced between check and use.
    Raises `OSError` with a reason in `strerror` if the file can't be opened, and for a folder, a
    pipe, a socket or a device, without waiting or reading.
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
    """Returns the contents of a regular file of at most `most` bytes.

    Raises `OSError` as `open_ordinary` does, and for a larger file before reading.
    """
    file, size = open_ordinary(path)
    with file:
        if size > most:
            raise OSError(0, f"has {size:,} bytes; allowed are {most:,}")
        return file.read(size)
