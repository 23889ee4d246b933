"""Cache of the scans of pools by the content of their rows: equal rows are read once, also by later processes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_datasel.atomic import failure_reason, write_file
from hf_datasel.errors import DataselError
from hf_datasel.formats.row_scan import RowScan

__all__ = ["cached_scan", "content_key"]

logger = logging.getLogger(__name__)

_MAX_BYTES = 2 * 2**30
"""Size of all files of the cache; those that were not used for the longest time are removed."""

_MAX_MEMORY = 128 * 2**20
"""Size of all scans that a process caches, besides those in use."""

_SAMPLE_ROWS = 32
"""Number of rows that are read again before a file is used, and the same number of those that cannot be used."""

_DIGEST_BYTES = 32

_recent: OrderedDict[str, RowScan] = OrderedDict()
_lock = threading.Lock()


def content_key(tables: Iterable[pa.Table], *settings: Any) -> str:
    """Return a BLAKE2b digest of the content of tables, of settings, and of the code that reads rows.

    Args:
        tables: Rows as Arrow tables of a fixed number of rows each. Equal rows have an equal digest, whether they are
            stored in one table or are part of a larger one.
        settings: Whatever else decides how the rows are read, as values with a distinct `repr`.
    """
    digest = hashlib.blake2b(f"{_code_digest()}{settings!r}".encode(), digest_size=_DIGEST_BYTES)
    for number, table in enumerate(tables):
        if not number:
            digest.update(repr([(field.name, str(field.type)) for field in table.schema]).encode())
        for batch in table.combine_chunks().to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()


@functools.cache
def _code_digest() -> str:
    """Return a digest of the modules that read rows: what other code has read is never used."""
    digest = hashlib.blake2b(f"{sys.version_info[:2]} {pa.__version__}".encode())
    sources = sorted(Path(__file__).parent.glob("*.py"))
    for path in sources:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest() if sources else os.urandom(16).hex()  # installed without sources


def cached_scan(key: str, num_rows: int, scan: Callable[[np.ndarray | None], RowScan], on_disk: bool) -> RowScan:
    """Return the scan of rows from the cache, or scan them and add it.

    A file may be damaged, or have been written by anybody who can write to the folder: some rows of it, the first and
    the last among them, are read again and compared before it is used.

    Args:
        key: Key of the content of the rows.
        num_rows: Number of rows.
        scan: Function that scans the rows with these numbers, or all of them for None.
        on_disk: Whether other processes can use it: in a file of `HF_DATASETS_CACHE/hf_datasel/row_scans`.

    Raises:
        FormatError: As `scan` does.
    """
    result = _recent.get(key)
    path = _folder() / f"{key}.bin"
    if result is None and on_disk:
        result = _read(path, num_rows, scan)
    if result is None:
        result = scan(None)
        if on_disk:
            _write(path, result)
    _remember(key, result)
    return result


def _remember(key: str, scan: RowScan) -> None:
    with _lock:
        _recent[key] = scan
        _recent.move_to_end(key)
        while sum(entry.ids.nbytes for entry in _recent.values()) > _MAX_MEMORY:
            _recent.popitem(last=False)


# -- files -----------------------------------------------------------------------------------------------------------
def _folder() -> Path:
    from datasets import config

    return Path(config.HF_DATASETS_CACHE) / "hf_datasel" / "row_scans"


def _read(path: Path, num_rows: int, scan: Callable[[np.ndarray | None], RowScan]) -> RowScan | None:
    """Return the scan in a file; None if there is none, or it is not one of these rows."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        stored = _parsed(path.read_bytes(), num_rows)
        sample = _sample(stored)
        if not _equal(stored.subset(sample), scan(sample)):
            raise ValueError("it is of other rows")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        logger.debug("%s is not used: %s. The rows are read again.", path, error)
        return None
    try:
        os.utime(path)
    except OSError:  # of somebody else, who decides when it was last used
        logger.debug("The time of use of %s cannot be set.", path)
    return stored


def _parsed(content: bytes, num_rows: int) -> RowScan:
    """Return the scan that `_write` wrote, or raise if it is damaged or of another number of rows."""
    if content[:_DIGEST_BYTES] != _checksum([memoryview(content)[_DIGEST_BYTES:]]):
        raise ValueError("it is damaged")
    values = np.frombuffer(content, dtype=np.uint8)[_DIGEST_BYTES:]
    ids, codes, contents, encoded = np.split(values, np.cumsum([32 * num_rows, num_rows, num_rows]))
    text = json.loads(encoded.tobytes())
    reasons, details = tuple(text["reasons"]), dict(text["details"])
    are_texts = all(isinstance(text, str) for text in (*reasons, *details.values()))
    if not are_texts or reasons[0] or codes.max() >= len(reasons) or list(details) != np.flatnonzero(codes).tolist():
        raise ValueError("its reasons are not those of its rows")
    return RowScan(ids.reshape(-1, 32), codes, contents, reasons, details)


def _sample(stored: RowScan) -> np.ndarray:
    """Return row numbers at random, the first and the last row and some rows that cannot be used among them."""
    rng, num_rows, unusable = np.random.default_rng(), len(stored.ids), np.fromiter(stored.details, dtype=np.int64)
    sample = [0, num_rows - 1, *rng.integers(num_rows, size=_SAMPLE_ROWS)]
    return np.unique([*sample, *rng.permutation(unusable)[:_SAMPLE_ROWS]])


def _equal(first: RowScan, second: RowScan) -> bool:
    return (
        np.array_equal(first.ids, second.ids)
        and np.array_equal(first.contents, second.contents)
        and np.array_equal(first.row_reasons(), second.row_reasons())
        and first.details == second.details
    )


def _checksum(parts: Iterable[memoryview]) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _write(path: Path, scan: RowScan) -> None:
    text = json.dumps({"reasons": scan.reasons, "details": list(scan.details.items())}).encode()
    parts = [*(array.reshape(-1).data for array in (scan.ids, scan.reason_codes, scan.contents)), memoryview(text)]
    if sum(map(len, parts)) > _MAX_BYTES:
        logger.debug("The scan of %d rows is too large to be cached.", len(scan.ids))
        return

    def write(draft: Path) -> None:
        with draft.open("wb") as file:
            file.writelines([_checksum(parts), *parts])

    try:
        write_file(path, write)
    except DataselError as error:  # the folder is full or read-only: the next process reads the rows again
        logger.debug("The scan of %d rows is not cached: %s", len(scan.ids), error)
        return
    _remove_oldest(path.parent)


def _remove_oldest(folder: Path) -> None:
    """Remove the files that were not used for the longest time while all are too large together."""
    stats = {}
    for path in folder.glob("*.bin"):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            stats[path] = path.stat()
    total = 0
    for path in sorted(stats, key=lambda path: -stats[path].st_mtime):
        total += stats[path].st_size
        if total > _MAX_BYTES:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.debug("%s cannot be removed: %s.", path, failure_reason(error))
