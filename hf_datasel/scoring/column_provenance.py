"""Column provenance: map the hash of a column's values to the spec that produced it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hf_datasel.atomic import write_file
from hf_datasel.errors import ScoreError
from hf_datasel.scoring.base import is_text_list
from hf_datasel.spec import upgraded

__all__ = [
    "column_numbers",
    "is_computed",
    "provenance_of",
    "provenance_of_columns",
    "read_provenance",
    "record_provenance",
    "write_provenance",
]

logger = logging.getLogger(__name__)

_MAX_COLUMNS = 1_000
"""Number of columns whose spec a process remembers; older ones are dropped."""
_MIN_DISTINCT = 16
"""Number of distinct values from which equal columns are no coincidence; in long columns a twentieth of the values."""

_specs: dict[str, dict[str, Any]] = {}


def record_provenance(name: str, column: pa.Array | pa.ChunkedArray, spec: dict[str, Any]) -> None:
    """Record the spec that a column was computed with. Columns of single texts or vectors are ignored.

    Args:
        name: Name of the column.
        column: Values of the column.
        spec: Spec of the score.
    """
    if _has_numbers(column):
        for key in _keys(name, column_numbers(column)):
            _record(key, spec)


def provenance_of(name: str, values: np.ndarray) -> dict[str, Any] | None:
    """Return the spec that a column was computed with, or None if it is unknown.

    The column is recognized by its values in their order, so it may have been renamed or stored. A column with few
    distinct values, such as counts, must still have its name, because other columns may be equal by chance.

    Args:
        name: Name of the column.
        values: Values of the column, float64 of shape (rows,), NaN for null; see `column_numbers`.
    """
    return next((_specs[key] for key in _keys(name, values) if key in _specs), None)


def provenance_of_columns(table: pa.Table) -> dict[str, dict[str, Any]]:
    """Return the spec of each column of a table whose spec is known, by name.

    Args:
        table: The table.
    """
    columns = {name: table.column(name) for name in table.column_names if _has_numbers(table.column(name))}
    specs = {name: provenance_of(name, column_numbers(column)) for name, column in columns.items()}
    return {name: spec for name, spec in specs.items() if spec is not None}


def is_computed(name: str, column: pa.Array | pa.ChunkedArray) -> bool:
    """Return whether a column is known to be the result of a score, or holds nothing but nulls.

    Args:
        name: Name of the column.
        column: Values of the column.
    """
    if column.null_count == len(column):
        return True
    return _has_numbers(column) and provenance_of(name, column_numbers(column)) is not None


def write_provenance(path: Path, table: pa.Table, parents: Mapping[str, Any] | None = None) -> None:
    """Write the specs of the columns of a table, to be stored next to the file of the table.

    Args:
        path: JSON file to write.
        table: The table.
        parents: Record of the datasets that the rows come from.
    """
    columns = {name: table.column(name) for name in table.column_names if _has_numbers(table.column(name))}
    keys = [key for name, column in columns.items() for key in _keys(name, column_numbers(column))]
    specs = {key: _specs[key] for key in keys if key in _specs}
    content = {"origins": specs, "parents": parents or {}}
    write_file(path, json.dumps(content, indent=1, sort_keys=True), ScoreError)


def read_provenance(path: Path) -> None:
    """Read what `write_provenance` wrote. It applies only to columns with exactly the same values.

    Args:
        path: JSON file; one that cannot be read is logged and ignored.
    """
    try:
        specs = dict(json.loads(path.read_text(encoding="utf-8"))["origins"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read (%s): how its columns were computed counts as unverified.", path, error)
        return
    for key, spec in specs.items():
        _record(key, upgraded(spec))


def _record(key: str, spec: dict[str, Any]) -> None:
    _specs.pop(key, None)  # insert at the end: columns with equal values have the spec of the last one computed
    _specs[key] = spec
    while len(_specs) > _MAX_COLUMNS:
        del _specs[next(iter(_specs))]


def _keys(name: str, values: np.ndarray) -> list[str]:
    """Return the keys of a column: name and values, and the values alone if many of them are distinct."""
    present = values[~np.isnan(values)]
    if not present.size:
        return []
    digest = _digest(values)
    is_distinctive = len(np.unique(present)) >= max(_MIN_DISTINCT, present.size // 20)
    return [f"{name}:{digest}", digest] if is_distinctive else [f"{name}:{digest}"]


def column_numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return the numbers that a column is recognized by, float64 of shape (rows,), NaN for null.

    Args:
        column: Column of numbers, which are its values; or of lists of texts, of each of which it is a hash.
    """
    if is_text_list(column.type):
        return np.array([np.nan if texts is None else _hash(texts) for texts in column.to_pylist()], dtype=np.float64)
    values = column.cast("double", safe=False)
    return np.asarray(values.to_numpy() if isinstance(values, pa.ChunkedArray) else values.to_numpy(False))


def _has_numbers(column: pa.Array | pa.ChunkedArray) -> bool:
    kind = column.type
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind)) or is_text_list(kind)


def _hash(texts: list[str]) -> int:
    """Return an int that float64 holds exactly."""
    return int.from_bytes(hashlib.blake2b(json.dumps(texts).encode(), digest_size=6).digest())


def _digest(values: np.ndarray) -> str:
    plain = np.array(values, dtype="<f8")
    plain[np.isnan(plain)] = np.nan  # one bit pattern for all NaN
    return hashlib.blake2b(plain.tobytes(), digest_size=16).hexdigest()
