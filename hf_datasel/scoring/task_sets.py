"""Anchors: rows that represent the tasks of a dataset. How they are selected, and the files that hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_datasel.atomic import write_file
from hf_datasel.errors import ConfigError, ScoreError, did_you_mean, reason_counts
from hf_datasel.formats import POOL_ROW, Pool, Row, canonical_rows, detect_format
from hf_datasel.formats.json_values import dump_json, table_values
from hf_datasel.scoring.base import null_counts

__all__ = ["check_anchor_path", "check_rows", "read_anchors", "sample_rows", "select_medoids", "write_anchors"]

_EXTENSIONS = (".jsonl", ".json", ".parquet")


# -- selection --------------------------------------------------------------------------------------------------------
def select_medoids(pool: Pool, count: int, ids: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Select the row nearest to the centroid of each of `count` clusters.

    A row with the same text as a selected one is replaced by the next nearest row of the cluster, and in a cluster
    without another row by the nearest remaining row of any cluster.

    Args:
        pool: The rows.
        count: Number of rows to select.
        ids: Cluster of each row, int64 of shape (rows,); -1 for a row without a vector.
        distances: Distance of each row to the centroid of its cluster, of shape (rows,).

    Returns:
        Distinct row numbers in ascending order, int64 of shape (count,).

    Raises:
        ScoreError: There are fewer distinct rows with a vector.
    """
    order = [int(row) for row in np.argsort(distances, kind="stable") if ids[row] >= 0 and not pool.reasons[row]]
    selected, texts, clusters = list[int](), set[bytes](), set[int]()
    for distinct_clusters in (True, False):
        for row in order:
            text, cluster = pool.row_ids[row].tobytes(), int(ids[row])
            if len(selected) < count and text not in texts and not (distinct_clusters and cluster in clusters):
                selected.append(row)
                texts.add(text)
                clusters.add(cluster)
    return _sorted(np.array(selected, dtype=np.int64), count)


def sample_rows(pool: Pool, count: int, seed: int) -> np.ndarray:
    """Sample rows with distinct texts.

    Args:
        pool: The rows.
        count: Number of rows to sample.
        seed: Random seed.

    Returns:
        Distinct row numbers in ascending order, int64 of shape (count,).

    Raises:
        ScoreError: There are fewer distinct rows.
    """
    usable = np.flatnonzero(pool.usable)
    _, first = np.unique(pool.row_ids[usable], axis=0, return_index=True)
    distinct = usable[np.sort(first)]
    return _sorted(np.random.default_rng(seed).permutation(distinct)[:count], count)


def check_rows(pool: Pool, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Check the row numbers of anchors, and return them.

    Args:
        pool: The rows.
        rows: Row numbers.

    Returns:
        The same row numbers, int64.

    Raises:
        ScoreError: There are no row numbers, they are not distinct or beyond the dataset, or a row is unusable.
    """
    numbers = np.asarray(rows)
    if numbers.ndim != 1 or not len(numbers) or not np.issubdtype(numbers.dtype, np.integer):
        raise ScoreError(f"Anchors have to be row numbers, at least one, and are {rows!r}.")
    if len(np.unique(numbers)) < len(numbers) or numbers.min() < 0 or numbers.max() >= len(pool):
        raise ScoreError(f"Row numbers of anchors have to be distinct and from 0 to {len(pool) - 1:,}: {rows!r}.")
    reasons = pool.subset(numbers).reasons
    if (reasons != "").any():
        raise ScoreError(f"Some rows cannot be anchors: {reason_counts(null_counts(reasons))}. Select others.")
    return numbers.astype(np.int64)


def _sorted(rows: np.ndarray, count: int) -> np.ndarray:
    if len(rows) < count:
        raise ScoreError(
            f"{count:,} anchors are requested, and only {len(rows):,} usable rows differ in their text. Lower anchors."
        )
    return np.sort(rows)


# -- files -----------------------------------------------------------------------------------------------------------
def write_anchors(pool: Pool, rows: np.ndarray, path: Path) -> None:
    """Write rows to a file as anchors: the columns of their format and their row numbers as `pool_row`.

    Args:
        pool: The rows.
        rows: Row numbers.
        path: File to write; its extension determines the format.
    """
    table = pool.dataset.select_columns(pool.columns).select(rows).with_format("arrow")[:]
    table = table.append_column(POOL_ROW, pa.array(rows, pa.int64()))
    if path.suffix == ".parquet":
        write_file(path, partial(pq.write_table, table), ScoreError)
        return
    columns = table_values(table)
    lines = [dump_json(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
    text = "\n".join(lines) + "\n" if path.suffix == ".jsonl" else "[\n" + ",\n".join(lines) + "\n]\n"
    write_file(path, text, ScoreError)


def check_anchor_path(path: Path) -> Path:
    """Check the extension of a file of anchors, and return the path.

    Args:
        path: The file.

    Raises:
        ConfigError: The extension is not supported.
    """
    if path.suffix not in _EXTENSIONS:
        hint = did_you_mean(path.suffix, _EXTENSIONS)
        raise ConfigError(f"A file of anchors ends in {', '.join(_EXTENSIONS)}, and not {str(path)!r}.{hint}")
    return path


def read_anchors(path: Path, columns: Mapping[str, str] | None = None) -> tuple[list[Row], str]:
    """Read the rows of a file of anchors.

    Args:
        path: The file, in any supported row format.
        columns: Names of the columns of a row format, and the names that the file has for them.

    Returns:
        The rows and their format.

    Raises:
        ScoreError: The file does not exist, or one of its rows is unusable.
        FormatError: Its columns are not in a supported format.
    """
    try:
        batch = _read_columns(path)
    except (OSError, ValueError) as error:
        raise ScoreError(f"{str(path)!r} cannot be read as a file of anchors: {error}") from error
    row_format = detect_format(list(batch), columns)
    rows = canonical_rows(batch, row_format, columns)
    unusable = {index: row.reason for index, row in enumerate(rows) if row.reason}
    if not rows or unusable or row_format == "text":
        reason = ", ".join(f"row {index}: {reason}" for index, reason in list(unusable.items())[:5])
        raise ScoreError(f"Each row in {str(path)!r} has to hold a question and an answer ({reason or 'none does'}).")
    return rows, row_format


def _read_columns(path: Path) -> dict[str, list[Any]]:
    if path.suffix == ".parquet":
        return table_values(pq.read_table(path))
    text = path.read_text(encoding="utf-8")
    is_array = text.lstrip().startswith("[")
    rows = json.loads(text) if is_array else [json.loads(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a row is not a JSON object")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
