"""Where a column of numbers comes from: known by its values, so that renaming it or storing it does not lose it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ScoreError

__all__ = ["origin_of", "read_origins", "remember", "write_origins"]

_MOST = 1_000
"""Columns remembered by a process, the last ones."""

_known: dict[str, dict[str, Any]] = {}


def remember(column: pa.Array | pa.ChunkedArray, spec: dict[str, Any]) -> None:
    """Keep in mind that these numbers were computed under this spec. Columns of text or vectors are left out."""
    if _is_numeric(column):
        _keep(_digest(column.cast("double").to_numpy(zero_copy_only=False)), spec)


def origin_of(values: np.ndarray) -> dict[str, Any] | None:
    """The spec under which these numbers were computed, in this order, or None if nothing is known of them.

    Args:
        values: float64 of shape (rows,), NaN where there is none.
    """
    return _known.get(_digest(values))


def write_origins(path: Path, columns: Iterable[pa.ChunkedArray]) -> None:
    """Write what is known of these columns beside the file that they are in."""
    digests = [_digest(each.cast("double").to_numpy()) for each in columns if _is_numeric(each)]
    known = {digest: _known[digest] for digest in digests if digest in _known}
    path.write_text(json.dumps({"origins": known}, indent=1, sort_keys=True), encoding="utf-8")


def read_origins(path: Path) -> None:
    """Take over what was written beside a file of columns. It holds for columns of those very values alone.

    Raises:
        ScoreError: the file is none that was written so.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["origins"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ScoreError(f"{str(path)!r} does not say where columns come from: {error}") from error
    for digest, spec in found:
        _keep(digest, spec)


def _keep(digest: str, spec: dict[str, Any]) -> None:
    _known.pop(digest, None)
    _known[digest] = spec
    while len(_known) > _MOST:
        del _known[next(iter(_known))]


def _is_numeric(column: pa.Array | pa.ChunkedArray) -> bool:
    return bool(pa.types.is_floating(column.type) or pa.types.is_integer(column.type))


def _digest(values: np.ndarray) -> str:
    plain = np.array(values, dtype="<f8")
    plain[np.isnan(plain)] = np.nan  # whatever its bits were
    return hashlib.blake2b(plain.tobytes(), digest_size=16).hexdigest()
