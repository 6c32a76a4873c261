"""A ticket key in a file, shared by all servers of one user if no key is configured.

The file must belong to the user alone; any other file is refused. The file is created atomically,
and the first file stays, so servers starting at the same time share a key. A server writes the file
when sealing its first ticket. A server without tickets leaves no file behind.
"""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import structlog

from elman_server.durable.tickets.keys import new_key, parse_key

_NAME = "ticket-key"
_MOST_NBYTES = 1024
_SETTING = "ELMAN_TICKET_KEY"


class KeyNotKept(Exception):
    """The key can't be stored in a file, or the existing file is unusable. The message gives the
    reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnKey:
    """The key of a server without a configured key, and of the server's workers."""

    text: str
    path: Path | None
    """The present or future file of the key; None if the key is valid until the server ends."""
    problem: str = ""
    """The reason why the key can't be stored."""

    def keep(self) -> str:
        """Stores the key unless the file holds one, and returns the file's key, for use from the
        first ticket on. If storing fails, returns this key."""
        if self.path is None:
            return self.text
        try:
            return kept_key(self.path, self.text)
        except KeyNotKept as error:
            OwnKey(text=self.text, path=None, problem=str(error)).log()
            return self.text

    def log(self) -> None:
        log = structlog.get_logger("elman.server")
        if self.path is not None:
            log.info(
                "no ticket key is configured: the servers of this user on this machine share one",
                path=str(self.path),
                setting=_SETTING,
            )
        else:
            log.warning(
                "no ticket key is configured, and none can be kept: tickets are good until this "
                "server ends, and nowhere else",
                problem=self.problem,
                setting=_SETTING,
            )


def own_key() -> OwnKey:
    """Returns the key in the user's state folder, or a new key to be stored there. If the folder
    can't be used, returns a new key without a file."""
    try:
        path = Path(platformdirs.user_state_dir("elman", appauthor=False)) / _NAME
        with _told(path):
            return OwnKey(text=_found(path) or new_key(), path=path)
    except KeyNotKept as error:
        return OwnKey(text=new_key(), path=None, problem=str(error))


def kept_key(path: Path, new: str) -> str:
    """Returns the key in a file, and writes `new` to a missing file first. Raises `KeyNotKept`."""
    with _told(path):
        found = _found(path)
        if found is not None:
            return found
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check(path.parent, os.stat(path.parent), forbidden=0o022)
        _write(path, new)
        return _read(path)


def _found(path: Path) -> str | None:
    """Returns the key in a file; None if the file is missing and can probably be created."""
    if os.name != "posix":
        raise KeyNotKept("whose a file is can't be told on this system")
    if not path.is_absolute():
        raise KeyNotKept(f"{path.parent} is no absolute path; is HOME set?")
    folder = next(folder for folder in path.parents if folder.exists())
    if folder == path.parent:
        _check(folder, os.stat(folder), forbidden=0o022)
        with contextlib.suppress(FileNotFoundError):
            return _read(path)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise KeyNotKept(f"{folder} can't be written to")
    return None


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Converts an `OSError` into `KeyNotKept` with the system's reason."""
    try:
        yield
    except OSError as error:
        raise KeyNotKept(f"{error.filename or path}: {error.strerror or error}") from None


def _read(path: Path) -> str:
    # Do not follow symbolic links, and do not block on a FIFO or a device.
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as opened:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise KeyNotKept(f"{path} is no file")
        _check(path, status, forbidden=0o077)
        text = opened.read(_MOST_NBYTES).decode("ascii", "replace").strip()
    try:
        parse_key(text)
    except ValueError as error:
        raise KeyNotKept(f"{path} does not hold {error}") from None
    return text


def _check(path: Path, status: os.stat_result, *, forbidden: int) -> None:
    if status.st_uid != os.geteuid():
        raise KeyNotKept(f"{path} belongs to user {status.st_uid}; allowed is {os.geteuid()}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden:
        raise KeyNotKept(f"{path} has mode {mode:03o}; allowed is {mode & ~forbidden:03o}")


def _write(path: Path, text: str) -> None:
    """Writes the file, unless another server has written it first."""
    file, made = tempfile.mkstemp(prefix=f".{_NAME}-", dir=path.parent)
    try:
        with os.fdopen(file, "w") as opened:
            opened.write(f"{text}\n")
            opened.flush()
            os.fsync(opened.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        os.unlink(made)
