"""Append-only files of results that stay readable up to the last complete batch if the process is killed."""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from hf_datasel.atomic import failure_reason
from hf_datasel.errors import ScoreError

__all__ = ["KEY_BYTES", "Records", "SegmentWriter", "lock_if_finished", "read_segment"]

KEY_BYTES = 16
_READ_BYTES = 1 << 26
_MAGIC = b"HDS1"
_HEADER = struct.Struct("<4sIIII")
"""Magic, number of items, bytes per item, checksum of these two, checksum of the items."""


@dataclass(frozen=True)
class Records:
    """Records of a segment, or of a part of it.

    Args:
        keys: Keys, uint8 of shape (items, 16).
        values: Values, of shape (items, width).
        damaged: Whether a part of the file is not as it was written. An incomplete last batch does not count.
    """

    keys: np.ndarray
    values: np.ndarray
    damaged: bool


class SegmentWriter:
    """Writes a segment of this process. The segment is locked as long as the process runs.

    Args:
        folder: Folder of the segment, created if it does not exist.

    Raises:
        ScoreError: The folder cannot be written to.
    """

    def __init__(self, folder: Path):
        self.path = folder / f"{uuid.uuid4().hex}.segment"
        self._lock = FileLock(_lock_path(self.path))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        except OSError as error:
            raise self._error(error) from error

    def append(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Write one batch. If the process is killed, either all of it or nothing of it will be read.

        Args:
            keys: Keys, uint8 of shape (items, 16).
            values: Values, of shape (items, width).

        Raises:
            ScoreError: The file cannot be written to.
        """
        items = np.concatenate([keys, values.view(np.uint8).reshape(len(values), -1)], axis=1)
        sizes = struct.pack("<II", *items.shape)
        body = items.tobytes()
        record = _HEADER.pack(_MAGIC, *items.shape, zlib.crc32(sizes), zlib.crc32(body)) + body
        try:
            while record:
                record = record[os.write(self._file, record) :]
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Flush the segment to disk, and unlock it.

        Raises:
            ScoreError: The file cannot be written to.
        """
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._error(error) from error
        finally:
            os.close(self._file)
            self._lock.release()

    def _error(self, error: OSError) -> ScoreError:
        return ScoreError(f"Cannot write to the score store at {str(self.path.parent)!r}: {failure_reason(error)}.")


def read_segment(path: Path, width: int, dtype: np.dtype[np.floating]) -> Iterator[Records]:
    """Read the complete batches of a segment, up to the first damaged one.

    Args:
        path: File of the segment.
        width: Numbers per item.
        dtype: Data type of the numbers.

    Yields:
        Batches of together about 64 MiB; only the last of these can be damaged. Without any batch, no items.
    """
    size = KEY_BYTES + width * dtype.itemsize
    parts, num_bytes, damaged = [np.empty((0, size), dtype=np.uint8)], 0, False
    with path.open("rb") as file:
        remaining = os.fstat(file.fileno()).st_size
        while remaining >= _HEADER.size:
            magic, count, item_size, sizes_checksum, checksum = _HEADER.unpack(file.read(_HEADER.size))
            expected = (_MAGIC, size, zlib.crc32(struct.pack("<II", count, item_size)))
            is_valid = (magic, item_size, sizes_checksum) == expected
            remaining -= _HEADER.size + count * size
            if is_valid and remaining < 0:
                break  # the writer was killed during this batch, or is still writing it
            body = file.read(count * size) if is_valid else b""
            if not is_valid or zlib.crc32(body) != checksum:
                damaged = True
                break
            parts.append(np.frombuffer(body, np.uint8).reshape(count, size))
            num_bytes += len(body)
            if num_bytes >= _READ_BYTES:
                yield _records(parts, width, dtype, False)
                parts, num_bytes = parts[:1], 0
    yield _records(parts, width, dtype, damaged)


def _records(parts: list[np.ndarray], width: int, dtype: np.dtype[np.floating], damaged: bool) -> Records:
    items = np.concatenate(parts)
    values = np.ascontiguousarray(items[:, KEY_BYTES:]).view(dtype).reshape(len(items), width)
    return Records(np.ascontiguousarray(items[:, :KEY_BYTES]), values, damaged)


def lock_if_finished(path: Path) -> FileLock | None:
    """Lock a segment whose writer has ended, or return None if it is still writing.

    Args:
        path: File of the segment.
    """
    lock = FileLock(_lock_path(path))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def _lock_path(path: Path) -> str:
    return str(path.with_suffix(".lock"))
