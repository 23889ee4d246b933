"""One table of a score store: the results of one spec, in Parquet files and the segments that are being written."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from hf_datasel.atomic import write_file
from hf_datasel.errors import ScoreError
from hf_datasel.scoring.store.segment_log import KEY_BYTES, SegmentWriter, lock_if_finished, read_segment

__all__ = ["StoreTable"]

logger = logging.getLogger(__name__)

_GROUP_BYTES = 64 << 20
"""Size of a Parquet row group, and the size from which a file is not merged any more."""
_PART_BYTES = 1 << 28
"""Size of the results from which a Parquet file is written and another one begun."""

_KEYS_PER_BLOCK = 1_000
"""Number of keys that are looked for at a time, until one of them is stored."""


class StoreTable:
    """The results of one spec.

    Args:
        folder: Folder of the table.
        spec: The spec.
        width: Numbers per item.
        dtype: Data type of the numbers.
    """

    def __init__(self, folder: Path, spec: Mapping[str, Any], width: int, dtype: np.dtype[Any]):
        self.folder = folder
        self.spec = spec
        self.width = width
        self.dtype = dtype
        self._writer: SegmentWriter | None = None

    def fill(self, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Write the stored results of some items into an array.

        Args:
            keys: Keys of the items, uint8 of shape (items, 16).
            values: Array of shape (items, width), written to where a result is stored.

        Returns:
            Whether the result of each item is stored, bool of shape (items,).
        """
        is_stored = np.zeros(len(keys), dtype=bool)
        if not len(keys):
            return is_stored
        requested = _as_bytes(keys)
        order = np.argsort(requested, kind="stable")
        requested = requested[order]
        for stored, results in self._read(requested):
            first = np.searchsorted(requested, stored)
            counts = np.searchsorted(requested, stored, side="right") - first  # equal keys, which have one result
            index = np.repeat(np.arange(len(stored)), counts)
            offsets = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
            items = order[first[index] + offsets]
            values[items] = results[index]
            is_stored[items] = True
        return is_stored

    def append(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Store results. They are written to the file when this returns.

        Args:
            keys: Keys of the items, uint8 of shape (items, 16).
            values: Results, of shape (items, width).

        Raises:
            ScoreError: The file cannot be written to.
        """
        if not len(keys):
            return
        if self._writer is None:
            self._writer = SegmentWriter(self.folder)
            self._write_spec()
        self._writer.append(keys, np.ascontiguousarray(values, dtype=self.dtype))

    def close(self) -> None:
        """Finish writing in this process."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def compact(self) -> None:
        """Merge finished segments into Parquet files, unless another process is doing so."""
        if not any(self.folder.glob("*.segment")):
            return
        try:
            with FileLock(str(self.folder / "compact.lock"), timeout=0):
                self._compact()
        except Timeout:
            logger.debug("Another process is compacting %s.", self.folder)
        except OSError as error:  # the folder is read-only or the disk is full: nothing is lost without it
            logger.debug("%s is not compacted: %s", self.folder, error)

    def merge(self, other: StoreTable) -> None:
        """Add the results of a table of another store with the same spec that this one lacks.

        Args:
            other: The other table.
        """
        own = np.unique(np.concatenate([np.empty(0, f"S{KEY_BYTES}"), *(keys for keys, _ in self._read())]))
        for keys, values in other._read():
            is_new = np.searchsorted(own, keys) == np.searchsorted(own, keys, side="right")
            self.append(keys[is_new].view(np.uint8).reshape(-1, KEY_BYTES), values[is_new])
        self.close()
        self.compact()

    def _write_spec(self) -> None:
        path = self.folder / "spec.json"
        if not path.is_file():
            write_file(path, json.dumps(self.spec, indent=1, sort_keys=True), ScoreError)

    # -- reading ------------------------------------------------------------------------------------------------------
    def _read(self, requested: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the keys (S16) and values of every file. A file that vanishes has been merged into a new one.

        Args:
            requested: Keys in ascending order: values of row groups with none of them are not read. By default all.
        """
        names: set[str] = set()
        while True:
            new = [path for path in self._files() if path.name not in names]
            if not new:
                return
            for path in new:
                names.add(path.name)
                try:
                    yield from self._read_file(path, requested)
                except FileNotFoundError:
                    continue

    def _files(self) -> list[Path]:
        return [*sorted(self.folder.glob("*.parquet")), *sorted(self.folder.glob("*.segment"))]

    def _read_file(self, path: Path, requested: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if path.suffix == ".segment":
            for records in read_segment(path, self.width, self.dtype):
                yield _as_bytes(records.keys), records.values
            return
        try:
            yield from self._read_part(path, requested)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the operating system, not a damaged file
                raise ScoreError(f"Cannot read {str(path)!r} of the score store: {error.strerror}.") from error
            self._set_aside(path, str(error))

    def _read_part(self, path: Path, requested: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            found = {field.name: field.type for field in file.schema_arrow}
            if found != self._columns():
                raise ValueError(f"its columns are {', '.join(f'{name} ({kind})' for name, kind in found.items())}")
            for group in range(file.num_row_groups):
                column = file.read_row_group(group, columns=["key"]).column("key")
                if column.null_count:
                    raise ValueError("a key is null")
                keys = column.combine_chunks().cast(pa.binary(KEY_BYTES))
                start = keys.offset
                stored = np.frombuffer(keys.buffers()[1], dtype=f"S{KEY_BYTES}")[start : start + len(keys)]
                if requested is not None and not _any_stored(requested, stored):
                    continue
                values = file.read_row_group(group, columns=["values"]).column("values").combine_chunks()
                flat = np.asarray(values.flatten().to_numpy(zero_copy_only=False), dtype=self.dtype)
                yield stored, flat.reshape(len(stored), self.width)

    def _columns(self) -> dict[str, pa.DataType]:
        """Return the columns of a Parquet file of the table."""
        return {"key": pa.binary(), "values": pa.list_(pa.from_numpy_dtype(self.dtype), self.width)}

    def _set_aside(self, path: Path, reason: str) -> None:
        folder = self.folder / "set-aside"
        folder.mkdir(exist_ok=True)
        logger.warning(
            "%s is damaged (%s). It was moved into set-aside, and its results are computed again.",
            path,
            " ".join(reason.split()),
        )
        path.replace(folder / path.name)

    # -- compacting ---------------------------------------------------------------------------------------------------
    def _compact(self) -> None:
        """Merge finished segments and small Parquet files into new files."""
        locks = {path: lock for path in self.folder.glob("*.segment") if (lock := lock_if_finished(path)) is not None}
        try:
            small = [path for path in self.folder.glob("*.parquet") if path.stat().st_size < _GROUP_BYTES]
            if not locks:
                return
            for draft in self.folder.glob("part-*.tmp"):
                draft.unlink()  # left by a process that was killed here
            damaged = set[Path]()
            groups = chain.from_iterable(map(self._read_file, small)), self._read_segments(locks, damaged)
            written = self._write_parts(chain.from_iterable(groups))
            for path in small:
                if path not in written:
                    path.unlink(missing_ok=True)  # a damaged one was moved already
            for path in locks:
                if path in damaged:
                    self._set_aside(path, "a batch does not match its checksum")
                else:
                    path.unlink()
        finally:
            for path, lock in locks.items():
                lock.release()
                path.with_suffix(".lock").unlink(missing_ok=True)

    def _read_segments(self, paths: Iterable[Path], damaged: set[Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the keys (S16) and values of segments, and add those with damaged batches to a set."""
        for path in paths:
            for records in read_segment(path, self.width, self.dtype):
                yield _as_bytes(records.keys), records.values
                if records.damaged:
                    damaged.add(path)

    def _write_parts(self, groups: Iterable[tuple[np.ndarray, np.ndarray]]) -> set[Path]:
        """Write results into as few files as their size permits, and return the files."""
        written, pending, size = set[Path](), list[tuple[np.ndarray, np.ndarray]](), 0
        for keys, values in groups:
            if len(keys):
                pending.append((keys, values))
                size += values.nbytes
            if size >= _PART_BYTES:
                written.add(self._write_part(pending))
                pending, size = [], 0
        return written | {self._write_part(pending)} if pending else written

    def _write_part(self, groups: list[tuple[np.ndarray, np.ndarray]]) -> Path:
        keys, first = np.unique(np.concatenate([keys for keys, _ in groups]), return_index=True)
        values = np.concatenate([values for _, values in groups])[first]
        padded = keys.astype(f"S{KEY_BYTES}").tobytes()
        column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(KEY_BYTES), len(keys), [None, pa.py_buffer(padded)])
        table = pa.table(
            {
                "key": column.cast(pa.binary()),
                "values": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), self.width),
            }
        )
        digest = hashlib.blake2b(padded, digest_size=8).hexdigest()
        draft = self.folder / f"part-{digest}.{os.getpid()}.tmp"
        rows = max(_GROUP_BYTES // (self.width * self.dtype.itemsize + KEY_BYTES), 1024)
        pq.write_table(table, draft, row_group_size=rows, write_page_checksum=True)
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        return draft.replace(self.folder / f"part-{digest}.parquet")


def _as_bytes(keys: np.ndarray) -> np.ndarray:
    """Return keys as bytes of length 16, which numpy compares as one value."""
    return np.ascontiguousarray(keys).view(f"S{KEY_BYTES}").reshape(-1)


def _any_stored(requested: np.ndarray, stored: np.ndarray) -> bool:
    """Return whether one of the requested keys is among those of a row group; both are in ascending order."""
    if not len(stored):
        return False
    first, last = np.searchsorted(requested, stored[0]), np.searchsorted(requested, stored[-1], side="right")
    keys = requested[first:last]
    for start in range(0, len(keys), _KEYS_PER_BLOCK):
        block = keys[start : start + _KEYS_PER_BLOCK]
        if (stored[np.minimum(np.searchsorted(stored, block), len(stored) - 1)] == block).any():
            return True
    return False
