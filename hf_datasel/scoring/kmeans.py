"""k-means over plain arrays: centroids, the nearest centroid of each vector, and silhouettes."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hf_datasel.errors import ScoreError

__all__ = ["KMeansFit", "fit_all", "kmeans", "nearest_centroids", "silhouettes"]

_MAX_ITER = 20
_BLOCK = 1 << 25  # number of distances in memory at once


class KMeansFit(NamedTuple):
    """k-means of some vectors with one number of clusters.

    Attributes:
        k: Number of clusters.
        centroids: Float32 of shape (k, dimensions).
        silhouette: Mean silhouette of a sample of rows, from -1 to 1: how much nearer a row is to its own cluster than
            to the next one.
        inertia: Mean squared distance of all vectors to their centroids.
        rows: Number of vectors.
    """

    k: int
    centroids: np.ndarray
    silhouette: float
    inertia: float
    rows: int


def fit_all(
    vectors: np.ndarray, ks: Sequence[int], seed: int, init: str, backend: str, sample: int
) -> list[KMeansFit]:
    """Fit k-means with several numbers of clusters.

    The silhouette is the mean over a sample of the rows, the same for every k, and each of these is compared with all
    vectors. Compared with the sample alone, small clusters would lose most of their rows, and a large k would look
    worse than it is.

    Args:
        vectors: Float32 of shape (rows, dimensions), all of them finite.
        ks: Distinct numbers of clusters, at least 2.
        seed: Random seed of the first centroids and of the sample.
        init: "random" or "k-means++".
        backend: "sklearn" or "faiss".
        sample: Maximum number of rows in the sample.

    Returns:
        One fit per k, in ascending order of k.

    Raises:
        ScoreError: A k is not below the number of vectors, too many vectors are equal, or faiss is not installed.
    """
    if max(ks) >= len(vectors):
        raise ScoreError(
            f"The silhouette at k={max(ks):,} needs more than {max(ks):,} vectors, and there are {len(vectors):,}. "
            "Lower k."
        )
    rows = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:sample])
    fits, labels = [], []
    for k in sorted(ks):
        centroids = kmeans(vectors, k, seed, init, backend)
        parts = [nearest_centroids(vectors[block], centroids) for block in _blocks(len(vectors), k)]
        ids, distances = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        labels.append(ids)
        inertia = float(np.square(distances, dtype=np.float64).mean())
        fits.append(KMeansFit(k, centroids, 0.0, inertia, len(vectors)))
    means = [values.mean() for values in silhouettes(vectors, rows, labels)]
    return [fit._replace(silhouette=float(mean)) for fit, mean in zip(fits, means, strict=True)]


def kmeans(vectors: np.ndarray, k: int, seed: int, init: str = "random", backend: str = "sklearn") -> np.ndarray:
    """Compute the centroids of k-means.

    Args:
        vectors: Float32 of shape (rows, dimensions), all of them finite.
        k: Number of clusters.
        seed: Random seed of the first centroids.
        init: "random" or "k-means++"; for "sklearn" only.
        backend: "sklearn" or "faiss".

    Returns:
        Float32 of shape (k, dimensions).

    Raises:
        ScoreError: There are fewer vectors than centroids, too many vectors are equal, or faiss is not installed.
    """
    if len(vectors) < k:
        raise ScoreError(f"Cluster(k={k}) has only {len(vectors):,} vectors to fit to. Lower k.")
    if backend == "faiss":
        return _faiss_kmeans(vectors, k, seed)
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    model = KMeans(k, init=init, n_init=1, max_iter=_MAX_ITER, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(vectors)
        except ConvergenceWarning as error:
            raise _too_few_distinct(vectors, k) from error
    return np.asarray(model.cluster_centers_, dtype=np.float32)


def _faiss_kmeans(vectors: np.ndarray, k: int, seed: int) -> np.ndarray:
    try:
        faiss = importlib.import_module("faiss")
    except ImportError as error:
        raise ScoreError(
            "Cluster(backend='faiss') needs faiss, which is not installed: pip install faiss-cpu. backend='sklearn' "
            "needs no further package, and its centroids differ."
        ) from error
    if len({vector.tobytes() for vector in vectors}) < k:
        raise _too_few_distinct(vectors, k)  # faiss would return empty clusters
    # By default faiss uses at most 256 rows per centroid, and warns if there are fewer than 39.
    limits = {"min_points_per_centroid": 1, "max_points_per_centroid": len(vectors)}
    model = faiss.Kmeans(vectors.shape[1], k, niter=_MAX_ITER, seed=seed % 2**31, **limits)
    model.train(np.ascontiguousarray(vectors))
    return np.asarray(model.centroids, dtype=np.float32)


def _too_few_distinct(vectors: np.ndarray, k: int) -> ScoreError:
    return ScoreError(
        f"Cluster(k={k}): so many of the {len(vectors):,} vectors are equal that there are fewer clusters. Lower k."
    )


def nearest_centroids(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Assign each vector to its nearest centroid; the lowest index wins a tie.

    Args:
        vectors: Float of shape (rows, dimensions).
        centroids: Float of shape (k, dimensions).

    Returns:
        The index of the nearest centroid and the distance to it, each of shape (rows,).

    >>> [values.tolist() for values in nearest_centroids(np.array([[0.0, 3.0]]), np.array([[9.0, 0.0], [4.0, 0.0]]))]
    [[1], [5.0]]
    """
    ids = ((centroids**2).sum(axis=1) - 2 * vectors @ centroids.T).argmin(axis=1)
    distances: np.ndarray = np.linalg.norm(vectors - centroids[ids], axis=1)
    return ids, distances


def silhouettes(vectors: np.ndarray, rows: np.ndarray, labels: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Compute the silhouettes of some rows among all vectors, for several clusterings of the vectors.

    The silhouette is `(b - a) / max(a, b)`, where `a` is the mean distance to the other rows of the same cluster, and
    `b` the mean distance to the rows of the nearest other cluster; it is 0 for a row that is alone in its cluster.

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
    from scipy.sparse import csr_array
    from sklearn.metrics import pairwise_distances

    count = len(vectors)
    members = [csr_array((np.ones(count), ids, np.arange(count + 1)), shape=(count, ids.max() + 1)) for ids in labels]
    results = [np.zeros(len(rows)) for _ in labels]
    for block in _blocks(len(rows), count):
        distances = pairwise_distances(vectors[rows[block]], vectors)
        for values, ids, member in zip(results, labels, members, strict=True):
            values[block] = _block_silhouettes(distances @ member, ids[rows[block]], np.bincount(ids))
    return results


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


def _blocks(rows: int, width: int) -> Iterator[slice]:
    """Yield slices of as many rows as can be compared with `width` vectors at once."""
    step = max(_BLOCK // width, 1)
    return (slice(start, start + step) for start in range(0, rows, step))
