"""Files that results are appended to, batch by batch, and that are whole up to the last batch whatever happens."""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from hf_datasel.errors import ScoreError

__all__ = ["KEY_BYTES", "Records", "SegmentWriter", "claimed", "read_segment"]

KEY_BYTES = 16
_MAGIC = b"HDS1"
_HEADER = struct.Struct("<4sIIII")
"""Magic, number of items, bytes an item, checksum of these two, checksum of the items."""


@dataclass(frozen=True)
class Records:
    """Items of a segment.

    Attributes:
        keys: uint8 of shape (items, 16).
        values: shape (items, width).
        damaged: something in the file was not as it was written; an unfinished last batch does not count.
    """

    keys: np.ndarray
    values: np.ndarray
    damaged: bool


class SegmentWriter:
    """A segment of this process, that nobody else writes to. It is locked for as long as the process lives."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{uuid.uuid4().hex}.segment"
        self._lock = FileLock(_lock_path(self.path))
        self._lock.acquire()
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)

    def append(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Write one batch, all of it or, when the process is killed, nothing that will be read.

        Raises:
            ScoreError: the disk does not take it.
        """
        items = np.concatenate([keys, values.view(np.uint8).reshape(len(values), -1)], axis=1)
        sizes = struct.pack("<II", *items.shape)
        body = items.tobytes()
        record = _HEADER.pack(_MAGIC, *items.shape, zlib.crc32(sizes), zlib.crc32(body)) + body
        try:
            while record:
                record = record[os.write(self._file, record) :]
        except OSError as error:
            raise ScoreError(
                f"Cannot write to the score store at {str(self.path.parent)!r}: {error.strerror}."
            ) from error

    def close(self) -> None:
        """Put it on the disk for good, and let others have it."""
        os.fsync(self._file)
        os.close(self._file)
        self._lock.release()


def read_segment(path: Path, width: int, dtype: np.dtype[np.floating]) -> Records:
    """The whole batches of a segment, up to the first one that is damaged."""
    data = path.read_bytes()
    size = KEY_BYTES + width * dtype.itemsize
    parts, at, damaged = [np.empty((0, size), dtype=np.uint8)], 0, False
    while at + _HEADER.size <= len(data):
        magic, items, each, sizes, body = _HEADER.unpack_from(data, at)
        right = (magic, each, sizes) == (_MAGIC, size, zlib.crc32(struct.pack("<II", items, each)))
        at += _HEADER.size
        if right and at + items * size > len(data):
            break  # the writer was killed in the middle of it, or is still at it
        if not right or zlib.crc32(data[at : at + items * size]) != body:
            damaged = True
            break
        parts.append(np.frombuffer(data, np.uint8, items * size, at).reshape(items, size))
        at += items * size
    whole = np.concatenate(parts)
    values = np.ascontiguousarray(whole[:, KEY_BYTES:]).view(dtype).reshape(len(whole), width)
    return Records(np.ascontiguousarray(whole[:, :KEY_BYTES]), values, damaged)


def claimed(path: Path) -> FileLock | None:
    """The lock of a segment whose writer is gone; None while it is at work."""
    lock = FileLock(_lock_path(path))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def _lock_path(path: Path) -> str:
    return str(path.with_suffix(".lock"))
