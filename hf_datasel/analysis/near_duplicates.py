"""Near-duplicates among selected rows: their share by vectors, and their number by text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from hf_datasel.analysis.binning import round_significant
from hf_datasel.errors import ColumnError
from hf_datasel.formats import Pool
from hf_datasel.scoring.text_hashes import hash_words
from hf_datasel.scoring.vectors import load_vectors
from hf_datasel.selectors import NoTextDuplicates
from hf_datasel.strategies.near_duplicates import has_near_duplicates
from hf_datasel.strategies.text_duplicates import find_text_duplicates

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["NearDuplicates", "TextDuplicateCounts", "near_duplicates_among", "text_duplicates_among"]

_MAX_PAIRS = 10**8  # cosines computed per selection, unless `_MIN_COMPARED` rows need more
_MIN_COMPARED = 1_000
_BLOCK = 4_096


class NearDuplicates(TypedDict):
    """Share of selected rows with a near-duplicate among the other selected rows.

    Attributes:
        column: Column of the vectors.
        threshold: Cosine similarity above which two rows are near-duplicates.
        share: Share of the compared rows that have a near-duplicate, 0 to 1.
        compared: Number of rows compared with all others.
        sampled: Whether the compared rows are an evenly spaced sample of the selected rows.
    """

    column: str
    threshold: float
    share: float
    compared: int
    sampled: bool


class TextDuplicateCounts(TypedDict):
    """Number of selected rows whose text nearly repeats that of a row selected before them.

    Attributes:
        rows: Number of selected rows.
        near: Number of those that `NoTextDuplicates` with these settings would exclude, without exact duplicates.
        exact: Number of those that it would exclude because they have the same words as a row before them.
        threshold: Jaccard similarity from which on two rows are near-duplicates.
        ngram: Number of words of an n-gram.
        num_perm: Number of hash functions.
    """

    rows: int
    near: int
    exact: int
    threshold: float
    ngram: int
    num_perm: int


def near_duplicates_among(dataset: Dataset, column: str, rows: np.ndarray, threshold: float) -> NearDuplicates | None:
    """Compute the share of rows with a near-duplicate among the others, as `skip_near_duplicates` defines it.

    Vectors are read in blocks.

    Args:
        dataset: Dataset with the vectors.
        column: Column of the vectors.
        rows: Row numbers, int of shape (rows,).
        threshold: Cosine similarity above which two rows are near-duplicates.

    Returns:
        The share and how it was computed; None if no row has a vector.

    Raises:
        ColumnError: If the column has no vectors, or vectors of different lengths.
    """
    limit = max(_MAX_PAIRS // len(rows), _MIN_COMPARED)
    compared = np.arange(len(rows)) if len(rows) <= limit else np.linspace(0, len(rows) - 1, limit).astype(np.int64)
    vectors, has_vector = _vectors(dataset, column, rows[compared])
    compared, vectors = compared[has_vector], vectors[has_vector]
    if not len(compared):
        return None

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(rows), _BLOCK):
            block, block_has_vector = _vectors(dataset, column, rows[start : start + _BLOCK])
            if block_has_vector.any() and block.shape[1] != vectors.shape[1]:
                sizes = f"{vectors.shape[1]:,} and of {block.shape[1]:,}"
                raise ColumnError(f"Column {column!r} holds vectors of {sizes} numbers.")
            yield start + np.flatnonzero(block_has_vector), block[block_has_vector]

    has_duplicate = has_near_duplicates(vectors, compared, blocks(), threshold)
    return {
        "column": column,
        "threshold": threshold,
        "share": round_significant(float(has_duplicate.mean())),
        "compared": len(compared),
        "sampled": len(rows) > limit,
    }


def text_duplicates_among(pool: Pool, rows: np.ndarray) -> TextDuplicateCounts:
    """Count the rows that nearly repeat an earlier one, as `NoTextDuplicates` with its default settings does.

    Texts are read in blocks, about 15,000 rows per second on one core.

    Args:
        pool: Rows with text.
        rows: Row numbers, best first, int of shape (rows,).

    Raises:
        FormatError: The rows are tokenized already.
    """
    settings = NoTextDuplicates()
    found = find_text_duplicates(
        lambda positions: hash_words(pool.texts(settings.part, rows[positions])),
        np.arange(len(rows)),
        settings.threshold,
        settings.ngram,
        settings.num_perm,
    )
    exact = int(found.exact.sum())
    return {
        "rows": len(rows),
        "near": int((found.kept != np.arange(len(rows))).sum()) - exact,
        "exact": exact,
        "threshold": settings.threshold,
        "ngram": settings.ngram,
        "num_perm": settings.num_perm,
    }


def _vectors(dataset: Dataset, column: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of rows, float32 of shape (rows, dimensions), and which rows have one."""
    vectors = load_vectors(dataset.select(rows), column)
    return vectors, np.isfinite(vectors).all(axis=1) & bool(vectors.shape[1])
