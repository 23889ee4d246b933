"""Anchors: the rows that stand for the tasks of a dataset. Picking them, and keeping them in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_datasel.errors import ConfigError, ScoreError, did_you_mean, reason_counts
from hf_datasel.formats import POOL_ROW, Pool, Row, canonical_rows, detect_format
from hf_datasel.scoring.base import null_counts

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["checked_path", "given_rows", "medoids", "random_rows", "read_anchors", "write_anchors"]

_ENDINGS = (".jsonl", ".json", ".parquet")


# -- picking ---------------------------------------------------------------------------------------------------------
def medoids(dataset: Dataset, count: int, ids: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Pick the row nearest to the centre of each of `count` clusters.

    A row whose text is already picked gives way to the next nearest row of the cluster, and a cluster without another
    row to the nearest remaining row of any cluster.

    Args:
        dataset: rows in any supported format.
        count: number of rows to pick.
        ids: cluster of each row, int64 of shape (rows,); -1 for a row without a vector.
        distances: distance of each row to the centre of its cluster, of shape (rows,).

    Returns:
        Distinct row numbers in ascending order, int64 of shape (count,).

    Raises:
        ScoreError: fewer distinct rows with a vector than asked for.
    """
    pool = Pool(dataset)
    order = [int(row) for row in np.argsort(distances, kind="stable") if ids[row] >= 0 and not pool.reasons[row]]
    picked, texts, clusters = list[int](), set[bytes](), set[int]()
    for distinct_clusters in (True, False):
        for row in order:
            text, cluster = pool.row_ids[row].tobytes(), int(ids[row])
            if len(picked) < count and text not in texts and not (distinct_clusters and cluster in clusters):
                picked.append(row)
                texts.add(text)
                clusters.add(cluster)
    return _enough(np.array(picked, dtype=np.int64), count)


def random_rows(dataset: Dataset, count: int, seed: int) -> np.ndarray:
    """Distinct row numbers, in order, of rows that differ in their text.

    Raises:
        ScoreError: there are fewer.
    """
    pool = Pool(dataset)
    usable = np.flatnonzero(pool.reasons == "")
    _, first = np.unique(pool.row_ids[usable], axis=0, return_index=True)
    distinct = usable[np.sort(first)]
    return _enough(np.random.default_rng(seed).permutation(distinct)[:count], count)


def given_rows(dataset: Dataset, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """The row numbers as they are.

    Raises:
        ScoreError: they are none, not distinct, beyond the dataset, or of rows that cannot be used.
    """
    numbers = np.asarray(rows)
    if numbers.ndim != 1 or not len(numbers) or not np.issubdtype(numbers.dtype, np.integer):
        raise ScoreError(f"Anchors are named by row numbers, at least one, and these are {rows!r}.")
    if len(np.unique(numbers)) < len(numbers) or numbers.min() < 0 or numbers.max() >= len(dataset):
        raise ScoreError(f"Row numbers of anchors have to be distinct and from 0 to {len(dataset) - 1:,}: {rows!r}.")
    reasons = Pool(dataset.select(numbers)).reasons
    if (reasons != "").any():
        raise ScoreError(f"Some rows cannot be anchors: {reason_counts(null_counts(reasons))}. Take others.")
    return numbers.astype(np.int64)


def _enough(rows: np.ndarray, count: int) -> np.ndarray:
    if len(rows) < count:
        raise ScoreError(
            f"{count:,} anchors are asked for, and there are only {len(rows):,} rows for them that differ in their "
            "text. Lower anchors."
        )
    return np.sort(rows)


# -- files -----------------------------------------------------------------------------------------------------------
def write_anchors(dataset: Dataset, rows: np.ndarray, path: Path) -> None:
    """Write these rows, with the columns that hold them and `pool_row`, their numbers, as the path's ending says."""
    pool = Pool(dataset)
    data = pool.dataset.select_columns(pool.columns).select(rows)
    if path.suffix == ".parquet":
        table = data.with_format("arrow")[:]
        pq.write_table(table.append_column(POOL_ROW, pa.array(rows, pa.int64())), path)
        return
    lines = [json.dumps({**data[at], POOL_ROW: int(row)}, ensure_ascii=False) for at, row in enumerate(rows)]
    text = "\n".join(lines) + "\n" if path.suffix == ".jsonl" else "[\n" + ",\n".join(lines) + "\n]\n"
    path.write_text(text, encoding="utf-8", newline="\n")


def checked_path(path: Path) -> Path:
    """The path, where anchors can be written to it and read from it.

    Raises:
        ConfigError: its ending says nothing of the kind.
    """
    if path.suffix not in _ENDINGS:
        hint = did_you_mean(path.suffix, _ENDINGS)
        raise ConfigError(
            f"Anchors are kept in a file that ends in {', '.join(_ENDINGS)}, and not {str(path)!r}.{hint}"
        )
    return path


def read_anchors(path: Path) -> tuple[list[Row], str]:
    """The rows of a file, in any supported row format, and that format.

    Raises:
        ScoreError: there is no such file, or it holds no rows that can be used.
        FormatError: its columns make no supported format.
    """
    try:
        batch = _columns(path)
    except (OSError, ValueError) as error:
        raise ScoreError(f"{str(path)!r} cannot be read as a file of anchors: {error}") from error
    format = detect_format(list(batch))
    rows = canonical_rows(batch, format)
    bad = {at: row.reason for at, row in enumerate(rows) if row.reason}
    if not rows or bad or format == "text":
        why = ", ".join(f"row {at}: {reason}" for at, reason in list(bad.items())[:5])
        raise ScoreError(f"Each row in {str(path)!r} has to hold a question and an answer ({why or 'none does'}).")
    return rows, format


def _columns(path: Path) -> dict[str, list[Any]]:
    if path.suffix == ".parquet":
        columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
        return columns
    text = path.read_text(encoding="utf-8")
    whole = text.lstrip().startswith("[")
    rows = json.loads(text) if whole else [json.loads(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a row has no names for its values")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
