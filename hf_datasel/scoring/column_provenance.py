"""Column provenance: map the hash of a column's values to the spec that produced it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel.atomic import write_file
from hf_datasel.errors import ScoreError
from hf_datasel.scoring.base import Score, is_number_list, is_text_list
from hf_datasel.scoring.target_rows import TargetSettings
from hf_datasel.spec import changed_settings, upgraded

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "column_numbers",
    "is_computed",
    "other_settings",
    "provenance_in",
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

_LOADING = ("model", "revision", "dtype", "model_init_kwargs")
"""Settings that name a model and how it is loaded."""

_specs: dict[str, dict[str, Any]] = {}


def record_provenance(name: str, column: pa.Array | pa.ChunkedArray, spec: dict[str, Any]) -> None:
    """Record the spec that a column was computed with. Columns of single texts are ignored.

    Args:
        name: Name of the column.
        column: Values of the column.
        spec: Spec of the score.
    """
    if _has_numbers(column.type) or is_number_list(column.type):
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
    columns = {name: table.column(name) for name in table.column_names if _may_be_known(name, table.column(name).type)}
    specs = {name: provenance_of(name, column_numbers(column)) for name, column in columns.items()}
    return {name: spec for name, spec in specs.items() if spec is not None}


def provenance_in(dataset: Dataset, name: str) -> dict[str, Any] | None:
    """Return the spec that a column of a dataset was computed with, or None if it is unknown.

    Embeddings, which have none, are not read.

    Args:
        dataset: The dataset.
        name: Name of the column.
    """
    if not _may_be_known(name, dataset.features.arrow_schema.field(name).type):
        return None
    return provenance_of(name, column_numbers(dataset.select_columns([name]).with_format("arrow")[:].column(name)))


def is_computed(name: str, column: pa.Array | pa.ChunkedArray) -> bool:
    """Return whether a column is known to be the result of a score, or holds nothing but nulls.

    Args:
        name: Name of the column.
        column: Values of the column.
    """
    if column.null_count == len(column):
        return True
    return _may_be_known(name, column.type) and provenance_of(name, column_numbers(column)) is not None


def other_settings(score: Score, spec: Mapping[str, Any]) -> list[str]:
    """Return what a column was computed with where it differs from a score; empty if it is the score's output.

    Target rows are compared by their content, not by their name. A score that names no model is that of any model.

    Args:
        score: The score.
        spec: Recorded spec of the column.

    Returns:
        Phrases such as `"with pooling='mean', and not 'last'"`.
    """
    requested: dict[str, Any] = json.loads(json.dumps(score.spec(), default=str))
    recorded: dict[str, Any] = json.loads(json.dumps(dict(spec), default=str))
    if recorded.get("score") != requested["score"]:
        return [f"by {recorded.get('score')}, and not by {requested['score']}"]
    target = {field.name for field in fields(TargetSettings)} if "resolved_validation" in requested else set()
    ignored = {"column_prefix"}
    if requested.get("model", "") is None:
        ignored |= {"resolved_model", *_LOADING} - changed_settings(score).keys()
    differs = {name for name in requested.keys() - ignored if recorded.get(name) != requested[name]}
    if "resolved_validation" not in differs:
        differs -= target
    elif differs & target:
        differs -= {"resolved_validation"}
    return [
        f"for other target rows than {requested['validation']!r} has now"
        if name == "resolved_validation"
        else f"with {name}={recorded.get(name)!r}, and not {requested[name]!r}"
        for name in requested
        if name in differs
    ]


def write_provenance(path: Path, table: pa.Table, parents: Mapping[str, Any] | None = None) -> None:
    """Write the specs of the columns of a table, to be stored next to the file of the table.

    Args:
        path: JSON file to write.
        table: The table.
        parents: Record of the datasets that the rows come from.
    """
    columns = {name: table.column(name) for name in table.column_names if _may_be_known(name, table.column(name).type)}
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
        column: Column of numbers, which are its values; or of lists of texts or numbers, with a hash of each list.
    """
    if is_number_list(column.type):
        return np.fromiter(_list_hashes(column), dtype=np.float64, count=len(column))
    if is_text_list(column.type):
        texts = column.to_pylist()
        hashes = (np.nan if each is None else _hash(json.dumps(each).encode()) for each in texts)
        return np.fromiter(hashes, dtype=np.float64, count=len(column))
    values = column.cast("double", safe=False)
    return np.asarray(values.to_numpy() if isinstance(values, pa.ChunkedArray) else values.to_numpy(False))


def _may_be_known(name: str, kind: pa.DataType) -> bool:
    """Return whether a column may have a spec. Lists of numbers are read only if some of this name have one."""
    has_list_spec = is_number_list(kind) and any(key.rpartition(":")[0] == name for key in _specs)
    return has_list_spec or _has_numbers(kind)


def _has_numbers(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind)) or is_text_list(kind)


def _list_hashes(column: pa.Array | pa.ChunkedArray) -> Iterator[float]:
    """Yield a hash of the numbers of each row, as float32; NaN for null."""
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        lengths = chunk.value_lengths().to_numpy(zero_copy_only=False)
        numbers = np.ascontiguousarray(chunk.flatten().to_numpy(zero_copy_only=False), dtype="<f4")
        stop = 0
        for length in lengths:
            if np.isnan(length):
                yield np.nan
                continue
            start, stop = stop, stop + int(length)
            yield _hash(numbers[start:stop].tobytes())


def _hash(content: bytes) -> int:
    """Return an int that float64 holds exactly."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=6).digest())


def _digest(values: np.ndarray) -> str:
    plain = np.array(values, dtype="<f8")
    plain[np.isnan(plain)] = np.nan  # one bit pattern for all NaN
    return hashlib.blake2b(plain.tobytes(), digest_size=16).hexdigest()
