"""A folder of some keys' records and checkpoints, and the lock of all of them.

A checkpoint is written beside its place and renamed into it, so that whoever dies in between leaves
the old one. A record, which each renewal changes, is written where it is, in one piece that the
kernel takes as a whole; renaming takes a disk's file system ten times as long. Nothing is flushed:
a process that dies loses nothing, since what it wrote is the kernel's by then; a machine that dies
takes the owners of all leases with it, and the checkpoints of the last half minute or so. What it
left half written is found out by a checksum, and counts as never written.

Files are named by their keys' digests, so any key will do. Times are milliseconds.
"""

import fcntl
import hashlib
import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from elman_server.durable.store.record import Record

SHARDS = 256

_LOCK_SECONDS = 1.9
"""A little less than a `FileStore` gives its work."""
_LOCK_PAUSE = 0.5e-3
_RECORD = ".record"
_CHECKPOINT = ".checkpoint"
_UNFINISHED = ".unfinished"
_RECORD_HEADER = struct.Struct("<4sIQQQBH")
"""Letters, the CRC-32 of what follows it, generation, until, kept, flags, length of the last
owner's name. The name follows, and then the key, for people."""
_RECORD_CHECKED = 8
"""Where that which the CRC-32 is of begins."""
_RECORD_LETTERS = b"ELR1"
_OWNED, _WANTED, _KNOWN = 1, 2, 4
_HEADER = struct.Struct("<4sQI")
"""Of a checkpoint: letters, when it expires, the CRC-32 of its bytes, which follow."""
_LETTERS = b"ELC1"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def shard_of(name: str) -> int:
    """The number of the shard in which the key of that digest is, below `SHARDS`."""
    return int(name[:2], 16)


@contextmanager
def locked(root: str, number: int) -> Iterator["Shard"]:
    """The shard, for nobody else of any process or thread. Waits for whoever has it."""
    folder = os.path.join(root, f"{number:02x}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Of this very descriptor, unlike the locks of lockf, so it keeps other threads out too. The
        # file is never replaced or removed: there is one to wait for, always the same.
        _lock(lock)
        yield Shard(folder)
    finally:
        os.close(lock)


def _lock(file: int) -> None:
    """Raises `TimeoutError` if another process has it for long: one that waited for ever could not
    end either."""
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise TimeoutError("another process does not let go of a file") from None
            time.sleep(_LOCK_PAUSE)


class Shard:
    """Made by `locked`, and not to be used beyond it. Keys are named by their digests."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def record(self, name: str) -> Record:
        try:
            with open(self._path(name, _RECORD), "rb", buffering=0) as file:
                return _decode(file.readall())
        except FileNotFoundError:
            return Record()

    def note(self, name: str, key: str, record: Record) -> None:
        with open(self._path(name, _RECORD), "wb", buffering=0, opener=_overwriting) as file:
            file.write(_encode(record, key))

    def checkpoint(self, name: str, now: int) -> bytes | None:
        """What is kept, if it has not expired."""
        try:
            with open(self._path(name, _CHECKPOINT), "rb") as file:
                header, data = file.read(_HEADER.size), file.read()
        except FileNotFoundError:
            return None
        if _expiry(header) <= now or zlib.crc32(data) != _HEADER.unpack(header)[2]:
            return None
        return data

    def keep(self, name: str, data: bytes, expiry: int) -> None:
        header = _HEADER.pack(_LETTERS, expiry, zlib.crc32(data))
        self._replace(self._path(name, _CHECKPOINT), header, data)

    def discard(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path(name, _CHECKPOINT))

    def sweep(self, now: int) -> None:
        """Deletes checkpoints that have expired and records that nobody needs any more."""
        for file in os.listdir(self._folder):
            name, kind = os.path.splitext(file)
            if (
                (kind == _CHECKPOINT and self._expiry(name) <= now)
                or (kind == _RECORD and self.record(name).outlived(now))
                or kind == _UNFINISHED
            ):
                os.unlink(os.path.join(self._folder, file))

    def _expiry(self, name: str) -> int:
        with open(self._path(name, _CHECKPOINT), "rb") as file:
            return _expiry(file.read(_HEADER.size))

    def _path(self, name: str, kind: str) -> str:
        return os.path.join(self._folder, name + kind)

    @staticmethod
    def _replace(path: str, *parts: bytes) -> None:
        unfinished = path + _UNFINISHED
        with open(unfinished, "wb", opener=_private) as file:
            for part in parts:
                file.write(part)
        os.replace(unfinished, path)


def _expiry(header: bytes) -> int:
    """Of a checkpoint's file; 0 if that is no header of one."""
    if len(header) < _HEADER.size or not header.startswith(_LETTERS):
        return 0
    expiry: int = _HEADER.unpack(header)[1]
    return expiry


def _encode(record: Record, key: str) -> bytes:
    owner = (record.last or "").encode()
    flags = (
        _OWNED * (record.owner is not None)
        | _WANTED * record.wanted
        | _KNOWN * (record.last is not None)
    )
    times = record.generation, record.until, record.kept
    header = bytearray(_RECORD_HEADER.size)
    _RECORD_HEADER.pack_into(header, 0, _RECORD_LETTERS, 0, *times, flags, len(owner))
    checksum = zlib.crc32(header[_RECORD_CHECKED:] + owner)
    _RECORD_HEADER.pack_into(header, 0, _RECORD_LETTERS, checksum, *times, flags, len(owner))
    return bytes(header) + owner + key.encode() + b"\n"


def _decode(data: bytes) -> Record:
    """As if there had never been one, if it is damaged."""
    if len(data) < _RECORD_HEADER.size:
        return Record()
    letters, checksum, generation, until, kept, flags, length = _RECORD_HEADER.unpack_from(data)
    end = _RECORD_HEADER.size + length
    if letters != _RECORD_LETTERS or checksum != zlib.crc32(data[_RECORD_CHECKED:end]):
        return Record()
    last = data[_RECORD_HEADER.size : end].decode() if flags & _KNOWN else None
    return Record(
        generation=generation,
        owner=last if flags & _OWNED else None,
        last=last,
        until=until,
        wanted=bool(flags & _WANTED),
        kept=kept,
    )


def _overwriting(path: str, flags: int) -> int:
    """Keeps what is there until it is written over."""
    return os.open(path, flags & ~os.O_TRUNC, 0o600)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
