"""How many rows of a choice are nearly the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from hf_datasel.analysis.binning import significant
from hf_datasel.errors import ColumnError
from hf_datasel.scoring.vectors import all_vectors
from hf_datasel.strategies.near_duplicates import with_near_copies

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["NearCopies", "near_copies_among"]

_PAIRS = 10**8
"""Cosines that are computed for one choice at most, but for those of `_ASKED` rows."""
_ASKED = 1_000
_BLOCK = 4_096


class NearCopies(TypedDict):
    """How many chosen rows have a near copy among the other chosen rows.

    Attributes:
        column: that holds the vectors.
        threshold: cosine above which two rows are near copies.
        share: of the rows that were asked about, 0 to 1.
        asked: rows that were held against all others.
        sampled: whether these are only some of the chosen rows that have a vector, picked evenly.
    """

    column: str
    threshold: float
    share: float
    asked: int
    sampled: bool


def near_copies_among(dataset: Dataset, column: str, rows: np.ndarray, threshold: float) -> NearCopies | None:
    """Of how many rows some other one is a near copy, decided as `skip_near_copies` does; None without vectors.

    Vectors are read a block at a time.

    Raises:
        ColumnError: the column holds no vectors, or some of different lengths.
    """
    most = max(_PAIRS // len(rows), _ASKED)
    asked = np.arange(len(rows)) if len(rows) <= most else np.linspace(0, len(rows) - 1, most).astype(np.int64)
    mine, usable = _vectors(dataset, column, rows[asked])
    asked, mine = asked[usable], mine[usable]
    if not len(asked):
        return None

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(rows), _BLOCK):
            others, there = _vectors(dataset, column, rows[start : start + _BLOCK])
            if there.any() and others.shape[1] != mine.shape[1]:
                sizes = f"{mine.shape[1]:,} and of {others.shape[1]:,}"
                raise ColumnError(f"Column {column!r} holds vectors of {sizes} numbers.")
            yield start + np.flatnonzero(there), others[there]

    near = with_near_copies(mine, asked, parts(), threshold)
    return {
        "column": column,
        "threshold": threshold,
        "share": significant(float(near.mean())),
        "asked": len(asked),
        "sampled": len(rows) > most,
    }


def _vectors(dataset: Dataset, column: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of these rows, float32 of shape (rows, dimensions), and which of them there are."""
    vectors = all_vectors(dataset.select(rows), column)
    return vectors, np.isfinite(vectors).all(axis=1) & bool(vectors.shape[1])
