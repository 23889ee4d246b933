"""Where a column of numbers comes from: known by its values, so that renaming it or storing it does not lose it."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["origin_of", "read_origins", "remember", "write_origins"]

logger = logging.getLogger(__name__)

_MOST = 1_000
"""Columns remembered by a process, the last ones."""
_DISTINCT = 16
"""Different numbers, and a twentieth of all, that no other column has by chance."""

_known: dict[str, dict[str, Any]] = {}


def remember(name: str, column: pa.Array | pa.ChunkedArray, spec: dict[str, Any]) -> None:
    """Keep in mind that these numbers were computed under this spec. Columns of text or vectors are left out."""
    if _is_numeric(column):
        for key in _keys(name, column.cast("double").to_numpy(zero_copy_only=False)):
            _keep(key, spec)


def origin_of(name: str, values: np.ndarray) -> dict[str, Any] | None:
    """The spec under which these numbers were computed, in this order, or None if nothing is known of them.

    A column of few different numbers, such as counts, has to have its name still: others may be equal by chance.

    Args:
        name: of the column.
        values: float64 of shape (rows,), NaN where there is none.
    """
    return next((_known[key] for key in _keys(name, values) if key in _known), None)


def write_origins(path: Path, table: pa.Table) -> None:
    """Write what is known of these columns beside the file that they are in."""
    columns = {name: table.column(name) for name in table.column_names if _is_numeric(table.column(name))}
    keys = [key for name, each in columns.items() for key in _keys(name, each.cast("double").to_numpy())]
    known = {key: _known[key] for key in keys if key in _known}
    path.write_text(json.dumps({"origins": known}, indent=1, sort_keys=True), encoding="utf-8")


def read_origins(path: Path) -> None:
    """Take over what was written beside a file of columns. It holds for columns of those very values alone."""
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8"))["origins"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s does not say where columns come from (%s): they count as unverified.", path, error)
        return
    for key, spec in found.items():
        _keep(key, spec)


def _keep(digest: str, spec: dict[str, Any]) -> None:
    _known.pop(digest, None)  # of equal numbers the last ones that were computed
    _known[digest] = spec
    while len(_known) > _MOST:
        del _known[next(iter(_known))]


def _keys(name: str, values: np.ndarray) -> list[str]:
    """What a column is known by: its name and numbers, and where there are many different ones by these alone."""
    present = values[~np.isnan(values)]
    if not present.size:
        return []
    digest = _digest(values)
    many = len(np.unique(present)) >= max(_DISTINCT, present.size // 20)
    return [f"{name}:{digest}", digest] if many else [f"{name}:{digest}"]


def _is_numeric(column: pa.Array | pa.ChunkedArray) -> bool:
    return bool(pa.types.is_floating(column.type) or pa.types.is_integer(column.type))


def _digest(values: np.ndarray) -> str:
    plain = np.array(values, dtype="<f8")
    plain[np.isnan(plain)] = np.nan  # whatever its bits were
    return hashlib.blake2b(plain.tobytes(), digest_size=16).hexdigest()
