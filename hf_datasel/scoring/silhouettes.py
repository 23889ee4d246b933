"""Silhouettes: how well each row fits into its cluster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_datasel.scoring.blocks import for_each_block

__all__ = ["silhouettes"]

_ROWS = 128  # compared at once
_MAX_VECTORS = 1 << 13  # that they are compared with at once
_MAX_NUMBERS = 1 << 22  # in these vectors


def silhouettes(vectors: np.ndarray, rows: np.ndarray, labels: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Compute the silhouettes of some rows among all vectors, for several clusterings of the vectors.

    The silhouette is `(b - a) / max(a, b)`, where `a` is the mean distance to the other rows of the same cluster, and
    `b` the mean distance to the rows of the nearest other cluster; it is 0 for a row that is alone in its cluster.

    Blocks of rows are computed in parallel, in float64, and the result does not depend on the number of threads. A
    thread needs about 50 MB, and 1 KB for each cluster of each clustering.

    Args:
        vectors: Float of shape (vectors, dimensions).
        rows: Indices of vectors, int of shape (rows,).
        labels: For each clustering the cluster of each vector, int of shape (vectors,), from 0; at least two clusters
            are not empty.

    Returns:
        One array per clustering, float64 of shape (rows,).

    >>> line = np.array([[0.0], [1.0], [3.0], [9.0]])
    >>> silhouettes(line, np.array([0, 3]), [np.array([0, 0, 1, 2])])[0].round(3).tolist()
    [0.667, 0.0]
    """
    sizes = [np.bincount(ids) for ids in labels]
    middle = vectors.mean(axis=0, dtype=np.float64)
    results = [np.zeros(len(rows)) for _ in labels]

    def compute(block: slice) -> None:
        totals = _summed_distances(vectors, rows[block], middle, labels, sizes)
        for values, total, ids, size in zip(results, totals, labels, sizes, strict=True):
            values[block] = _block_silhouettes(total.T, ids[rows[block]], size)

    for_each_block(compute, len(rows), _ROWS)
    return results


def _summed_distances(
    vectors: np.ndarray,
    rows: np.ndarray,
    middle: np.ndarray,
    labels: Sequence[np.ndarray],
    sizes: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Return for each clustering the summed distances of each cluster to some rows, of shape (clusters, rows)."""
    from scipy.sparse import csc_array

    own = vectors[rows] - middle
    factors, squares = -2 * own.T, np.square(own).sum(axis=1)
    totals = [np.zeros((len(size), len(rows))) for size in sizes]
    step = min(max(_MAX_NUMBERS // max(vectors.shape[1], 1), 1), _MAX_VECTORS)
    for start in range(0, len(vectors), step):
        part = vectors[start : start + step] - middle
        distances = part @ factors
        distances += np.square(part).sum(axis=1)[:, None]
        distances += squares
        np.sqrt(np.maximum(distances, 0, out=distances), out=distances)
        ones, pointers = np.ones(len(part)), np.arange(len(part) + 1)
        for total, ids in zip(totals, labels, strict=True):
            members = csc_array((ones, ids[start : start + step], pointers), shape=(len(total), len(part)))
            total += members @ distances
    return totals


def _block_silhouettes(totals: np.ndarray, own: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Compute silhouettes from the summed distances of rows to each cluster, of shape (rows, clusters)."""
    rows = np.arange(len(own))
    inside = totals[rows, own] / np.maximum(sizes[own] - 1, 1)
    means = np.where(sizes > 0, totals / np.maximum(sizes, 1), np.inf)
    means[rows, own] = np.inf
    outside = means.min(axis=1)
    larger = np.maximum(inside, outside)
    is_defined = (sizes[own] > 1) & (larger > 0)
    values: np.ndarray = np.where(is_defined, (outside - inside) / np.where(is_defined, larger, 1), 0.0)
    return values
