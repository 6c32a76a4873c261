"""A shard: a folder with the records and checkpoints of some keys, and one lock.

A checkpoint is written to a temporary file and renamed, so a crash leaves the previous checkpoint
intact. A record changes at each renewal, and is overwritten in place by a single write, which the
kernel applies as a whole. Renaming takes ten times as long on a disk's file system. The store never
calls fsync. A dying process loses no data, because the kernel already has the written data. A dying
machine loses the checkpoints of about the last half minute, and also the owners of all leases. A
checksum detects partial writes. A partly written file counts as missing.

File names are digests of the keys, so a key may have any characters. Times are milliseconds.
"""

import fcntl
import hashlib
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from elman_server.durable.store.record import Record

SHARDS = 256

_LOCK_SECONDS = 1.9
"""A little less than the time limit of `FileStore`."""
_LOCK_PAUSE = 0.5e-3
_START = "since"
_RECORD = ".record"
_CHECKPOINT = ".checkpoint"
_UNFINISHED = ".unfinished"
_RECORD_HEADER = struct.Struct("<4sIQQQBH")
"""Magic letters, CRC-32 of the following bytes, generation, until, kept, flags, length of the last
owner's name. The name follows the header, and the key follows the name for human readers."""
_RECORD_CHECKED = 8
"""Offset of the first byte covered by the CRC-32."""
_RECORD_LETTERS = b"ELR1"
_OWNED, _WANTED, _KNOWN = 1, 2, 4
_HEADER = struct.Struct("<4sQI")
"""Header of a checkpoint: magic letters, expiry, CRC-32 of the data. The data follows the
header."""
_LETTERS = b"ELC1"


def start(root: str) -> int | None:
    """Returns the time at which the folder's data begins; None if no time is noted, or a damaged
    time."""
    with suppress(FileNotFoundError, ValueError), open(os.path.join(root, _START), "rb") as file:
        return int(file.read())
    return None


def note_start(root: str, since: int) -> None:
    """Notes a time, unless a time is noted. Other processes never see a part of the note."""
    descriptor, unfinished = tempfile.mkstemp(suffix=_UNFINISHED, dir=root)
    path = os.path.join(root, _START)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"%d" % since)
        os.link(unfinished, path)
    except FileExistsError:
        if start(root) is None:  # damaged
            os.replace(unfinished, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(unfinished)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def shard_of(name: str) -> int:
    """Returns the shard number of a key's digest, below `SHARDS`."""
    return int(name[:2], 16)


@contextmanager
def locked(root: str, number: int) -> Iterator["Shard"]:
    """Locks a shard against all other processes and threads. Waits for the lock, and raises
    `TimeoutError` after `_LOCK_SECONDS`."""
    folder = os.path.join(root, f"{number:02x}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # flock locks this descriptor, unlike lockf, and therefore excludes other threads too. The
        # lock file is never replaced or removed, so all processes wait for the same file.
        _lock(lock)
        yield Shard(folder)
    finally:
        os.close(lock)


def _lock(file: int) -> None:
    """Raises `TimeoutError` if another process holds the lock for too long. An unlimited wait could
    not be ended."""
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
    """Files of one shard, by digest of the key. Made by `locked`, and valid only inside its
    block."""

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
        """Returns the stored checkpoint, unless it has expired or is damaged."""
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

    def sweep(self, now: int) -> None:
        """Deletes expired checkpoints, outlived records and unfinished files."""
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
    """Returns the expiry from a checkpoint's header; 0 for an invalid header."""
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
    """Returns the record in `data`; an empty record for damaged data."""
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
    """Opens a file without truncating, so the old content stays until the write."""
    return os.open(path, flags & ~os.O_TRUNC, 0o600)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
