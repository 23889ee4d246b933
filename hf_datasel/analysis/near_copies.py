"""How many rows of a choice are nearly the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

from hf_datasel.analysis.binning import significant
from hf_datasel.errors import ColumnError
from hf_datasel.scores.vectors import all_vectors

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
    """Of how many rows some other one is a near copy; vectors are read a block at a time."""
    most = max(_PAIRS // len(rows), _ASKED)
    asked = np.arange(len(rows)) if len(rows) <= most else np.linspace(0, len(rows) - 1, most).astype(np.int64)
    mine, usable = _directions(dataset, column, rows[asked])
    asked, mine = asked[usable], mine[usable]
    if not len(asked):
        return None
    near = np.zeros(len(asked), dtype=bool)
    for start in range(0, len(rows), _BLOCK):
        others, there = _directions(dataset, column, rows[start : start + _BLOCK])
        if there.any() and others.shape[1] != mine.shape[1]:
            sizes = f"{mine.shape[1]:,} and of {others.shape[1]:,}"
            raise ColumnError(f"Column {column!r} holds vectors of {sizes} numbers.")
        at = start + np.flatnonzero(there)
        for first in range(0, len(asked) if there.any() else 0, _BLOCK):
            part = slice(first, first + _BLOCK)
            close = mine[part] @ others[there].T > threshold
            close[asked[part, None] == at] = False  # itself
            near[part] |= close.any(axis=1)
    return {
        "column": column,
        "threshold": threshold,
        "share": significant(float(near.mean())),
        "asked": len(asked),
        "sampled": len(rows) > most,
    }


def _directions(dataset: Dataset, column: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of length 1, float32 of shape (rows, dimensions), zero where there is none; and where there is one."""
    vectors = all_vectors(dataset.select(rows), column)
    usable = np.isfinite(vectors).all(axis=1) & bool(vectors.shape[1])
    vectors[~usable] = 0
    largest = np.abs(vectors).max(axis=1, initial=0, keepdims=True)
    vectors /= np.where(largest > 0, largest, 1)  # so that squares neither vanish nor overflow
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1), usable
