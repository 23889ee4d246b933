"""k-means over plain arrays: centroids, the nearest of them, and how well a number of them fits."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hf_datasel.errors import ScoreError

__all__ = ["Fit", "fit_each", "kmeans", "nearest", "silhouettes"]

_STEPS = 20
_BLOCK = 1 << 25  # distances held at once


class Fit(NamedTuple):
    """k-means of some vectors into k groups.

    Attributes:
        k: how many.
        centroids: float32 of shape (k, dimensions).
        silhouette: mean over some rows, -1 to 1: how much nearer a row is to its own group than to the next one.
        inertia: mean squared distance of all vectors to their centroids.
        rows: how many vectors there were.
    """

    k: int
    centroids: np.ndarray
    silhouette: float
    inertia: float
    rows: int


def fit_each(vectors: np.ndarray, ks: Sequence[int], seed: int, init: str, backend: str, sample: int) -> list[Fit]:
    """Fit k-means with each k, the lowest first.

    The silhouette is the mean over a sample of the rows, the same for every k, and each of them is held against all
    vectors. Held against the sample alone, small groups would lose most of their rows, and a large k would look worse
    than it is.

    Args:
        vectors: float32 of shape (rows, dimensions), all of them finite.
        ks: different ints of at least 2.
        seed: of the first centroids, and of the sample.
        init: "random" or "k-means++".
        backend: "sklearn" or "faiss".
        sample: rows at most.

    Raises:
        ScoreError: a k that is not below the number of vectors, or too many equal vectors; or faiss is not installed.
    """
    if max(ks) >= len(vectors):
        raise ScoreError(
            f"The silhouette at k={max(ks):,} needs more than {max(ks):,} vectors, and there are {len(vectors):,}. "
            "Lower k."
        )
    rows = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:sample])
    fits, groups = [], []
    for k in sorted(ks):
        centroids = kmeans(vectors, k, seed, init, backend)
        parts = [nearest(vectors[at], centroids) for at in _blocks(len(vectors), k)]
        ids, distances = (np.concatenate(each) for each in zip(*parts, strict=True))
        groups.append(ids)
        inertia = float(np.square(distances, dtype=np.float64).mean())
        fits.append(Fit(k, centroids, 0.0, inertia, len(vectors)))
    means = [each.mean() for each in silhouettes(vectors, rows, groups)]
    return [fit._replace(silhouette=float(mean)) for fit, mean in zip(fits, means, strict=True)]


def kmeans(vectors: np.ndarray, k: int, seed: int, init: str = "random", backend: str = "sklearn") -> np.ndarray:
    """Centroids, float32 of shape (k, dimensions), of vectors that are float32 and finite.

    Raises:
        ScoreError: fewer vectors than centroids, or too many of them equal; or faiss is not installed.
    """
    if len(vectors) < k:
        raise ScoreError(f"Cluster(k={k}) has only {len(vectors):,} vectors to fit to. Lower k.")
    if backend == "faiss":
        return _by_faiss(vectors, k, seed)
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    fitted = KMeans(k, init=init, n_init=1, max_iter=_STEPS, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            fitted.fit(vectors)
        except ConvergenceWarning as error:
            raise _too_equal(vectors, k) from error
    return np.asarray(fitted.cluster_centers_, dtype=np.float32)


def _by_faiss(vectors: np.ndarray, k: int, seed: int) -> np.ndarray:
    try:
        faiss = importlib.import_module("faiss")
    except ImportError as error:
        raise ScoreError(
            "Cluster(backend='faiss') is fitted with faiss, which is not installed: pip install faiss-cpu. "
            "backend='sklearn' needs nothing more, and finds other centroids."
        ) from error
    if len({vector.tobytes() for vector in vectors}) < k:
        raise _too_equal(vectors, k)  # faiss would make empty groups
    # by itself it takes 256 rows a centroid at most, and complains where there are fewer than 39
    limits = {"min_points_per_centroid": 1, "max_points_per_centroid": len(vectors)}
    fitted = faiss.Kmeans(vectors.shape[1], k, niter=_STEPS, seed=seed % 2**31, **limits)
    fitted.train(np.ascontiguousarray(vectors))
    return np.asarray(fitted.centroids, dtype=np.float32)


def _too_equal(vectors: np.ndarray, k: int) -> ScoreError:
    return ScoreError(
        f"Cluster(k={k}): so many of the {len(vectors):,} vectors are equal that they make fewer groups. Lower k."
    )


def nearest(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the nearest centroid of each vector, the lowest of equally near ones, and the distance to it.

    >>> [found.tolist() for found in nearest(np.array([[0.0, 3.0]]), np.array([[9.0, 0.0], [4.0, 0.0]]))]
    [[1], [5.0]]
    """
    ids = ((centroids**2).sum(axis=1) - 2 * vectors @ centroids.T).argmin(axis=1)
    distances: np.ndarray = np.linalg.norm(vectors - centroids[ids], axis=1)
    return ids, distances


def silhouettes(vectors: np.ndarray, rows: np.ndarray, groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Silhouettes of some rows among all vectors, float64 of shape (rows,), for each way to group the vectors.

    It is `(b - a) / max(a, b)`, where `a` is the mean distance to the other rows of the same group, and `b` that to
    the rows of the group for which it is least; 0 for a row that is alone in its group.

    Args:
        vectors: float of shape (vectors, dimensions).
        rows: numbers of vectors, int of shape (rows,).
        groups: number of the group of each vector, from 0, int of shape (vectors,); at least two groups have rows.

    >>> line = np.array([[0.0], [1.0], [3.0], [9.0]])
    >>> silhouettes(line, np.array([0, 3]), [np.array([0, 0, 1, 2])])[0].round(3).tolist()
    [0.667, 0.0]
    """
    from scipy.sparse import csr_array
    from sklearn.metrics import pairwise_distances

    count = len(vectors)
    sums = [csr_array((np.ones(count), ids, np.arange(count + 1)), shape=(count, ids.max() + 1)) for ids in groups]
    found = [np.zeros(len(rows)) for _ in groups]
    for at in _blocks(len(rows), count):
        distances = pairwise_distances(vectors[rows[at]], vectors)
        for values, ids, member in zip(found, groups, sums, strict=True):
            values[at] = _of_block(distances @ member, ids[rows[at]], np.bincount(ids))
    return found


def _of_block(totals: np.ndarray, own: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Silhouettes of rows from their distances to each group, summed, of shape (rows, groups)."""
    at = np.arange(len(own))
    inside = totals[at, own] / np.maximum(sizes[own] - 1, 1)
    means = np.where(sizes > 0, totals / np.maximum(sizes, 1), np.inf)
    means[at, own] = np.inf
    outside = means.min(axis=1)
    larger = np.maximum(inside, outside)
    known = (sizes[own] > 1) & (larger > 0)
    values: np.ndarray = np.where(known, (outside - inside) / np.where(known, larger, 1), 0.0)
    return values


def _blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of as many rows as may be compared with `width` vectors at once."""
    step = max(_BLOCK // width, 1)
    return (slice(start, start + step) for start in range(0, rows, step))
