"""Random samples of vectors that are too many to be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hf_datasel.errors import ColumnError
from hf_datasel.scoring.blocks import block_rows, for_each_block
from hf_datasel.scoring.vectors import iter_vectors

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["VectorSample", "finite_rows", "sample_vectors"]


class VectorSample(NamedTuple):
    """Random sample of vectors.

    Attributes:
        vectors: Float32 of shape (rows, dimensions), in the order of the rows that they are from.
        ranks: Rank of each vector in random order, a permutation of shape (rows,).
    """

    vectors: np.ndarray
    ranks: np.ndarray

    def first(self, count: int) -> np.ndarray:
        """Return the vectors of a smaller sample: what `sample_vectors` returns for that count."""
        return self.vectors if count >= len(self.vectors) else self.vectors[self.ranks < count]


def sample_vectors(
    data: Dataset | np.ndarray, column: str, count: int, seed: int, rows: np.ndarray | None = None
) -> VectorSample:
    """Draw rows that have a finite vector, and read these rows alone.

    Args:
        data: Rows with a column of vectors, or vectors of shape (rows, dimensions), which may be memory-mapped.
        column: Name of the column.
        count: Number of rows to draw. If there are not more, all are returned.
        seed: Random seed.
        rows: Indices of the rows to draw from, rising; all rows by default.

    Raises:
        ColumnError: The column does not hold vectors of one length.
    """
    candidates = np.arange(len(data)) if rows is None else rows
    order = np.random.default_rng(seed).permutation(len(candidates))
    count = min(count, len(order))
    vectors, ranks = np.empty((0, 0), dtype=np.float32), np.empty(count, dtype=np.int64)
    size = start = 0
    while size < count and start < len(order):  # again for as many rows as had no vector
        part = order[start : start + count - size]
        ascending = np.argsort(part)
        for offset, block, is_usable in _read(data, column, candidates[part[ascending]]):
            if not len(block):
                continue
            if not size:
                vectors = np.empty((count, block.shape[1]), dtype=np.float32)
            if block.shape[1] != vectors.shape[1]:
                raise ColumnError(
                    f"Column {column!r} holds vectors of {vectors.shape[1]:,} and of {block.shape[1]:,} numbers."
                )
            stop = size + len(block)
            vectors[size:stop] = block
            ranks[size:stop] = start + ascending[offset + np.flatnonzero(is_usable)]
            size = stop
        start += len(part)
    vectors, ranks = vectors[:size], ranks[:size]
    by_row = np.argsort(order[ranks])
    if not np.array_equal(by_row, np.arange(size)):
        vectors, ranks = vectors[by_row], ranks[by_row]
    return VectorSample(vectors, np.argsort(np.argsort(ranks)))


def _read(data: Dataset | np.ndarray, column: str, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield the index of the first of some rows, the vectors of those that have one, and which rows these are."""
    if not isinstance(data, np.ndarray):
        for start, vectors, reasons in iter_vectors(data.select(rows), column):
            yield start, vectors, reasons == ""
        return
    step = block_rows(data.shape[1])
    for start in range(0, len(rows), step):
        with np.errstate(over="ignore"):  # what overflows is infinite, and not usable
            block = np.asarray(data[rows[start : start + step]], dtype=np.float32)
        is_usable = np.asarray(np.isfinite(block).all(axis=1))
        yield start, block[is_usable], is_usable


def finite_rows(vectors: np.ndarray) -> np.ndarray:
    """Return which rows are finite, bool of shape (rows,), without a copy of the vectors.

    Args:
        vectors: Float of shape (rows, dimensions).
    """
    result = np.zeros(len(vectors), dtype=bool)

    def check(block: slice) -> None:
        result[block] = np.isfinite(vectors[block]).all(axis=1)

    for_each_block(check, len(vectors), block_rows(vectors.shape[1]))
    return result
