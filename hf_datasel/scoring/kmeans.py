"""k-means over plain arrays: centroids, the nearest centroid of each vector, and fits with several k."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np

from hf_datasel.errors import ScoreError
from hf_datasel.scoring.blocks import block_rows, for_each_block
from hf_datasel.scoring.silhouettes import silhouettes
from hf_datasel.scoring.vector_sample import VectorSample

__all__ = [
    "KMeansFit",
    "KMeansSettings",
    "best_fit",
    "fit_all",
    "kmeans",
    "nearest_centroids",
    "tied_ks",
]

_FAISS_SEED_STEP = 15_486_557  # from one start to the next, as faiss itself adds for nredo
_SIGNIFICANCE = 0.05


class KMeansSettings(NamedTuple):
    """Settings of k-means, with the names and the meaning of scikit-learn.

    Attributes:
        seed: Random seed of the first centroids.
        init: "random" or "k-means++"; for "sklearn" only.
        n_init: Number of starts, each from other first centroids.
        max_iter: Maximum number of steps of a start. It ends earlier where the centroids hardly move.
        backend: "sklearn" or "faiss".
    """

    seed: int
    init: str = "random"
    n_init: int = 5
    max_iter: int = 300
    backend: str = "sklearn"


class KMeansFit(NamedTuple):
    """k-means of some vectors with one number of clusters.

    Attributes:
        k: Number of clusters.
        centroids: Those of the start with the lowest inertia, float32 of shape (k, dimensions).
        silhouettes: Mean silhouette of a sample of rows for each start, from -1 to 1: how much nearer a row is to its
            own cluster than to the next one.
        inertia: Mean squared distance of all vectors to these centroids.
        rows: Number of vectors.
    """

    k: int
    centroids: np.ndarray
    silhouettes: tuple[float, ...]
    inertia: float
    rows: int

    @property
    def silhouette(self) -> float:
        """Mean of the silhouettes of all starts, so that one lucky start does not decide."""
        return fmean(self.silhouettes)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the silhouettes of the starts; None for a single start."""
        return stdev(self.silhouettes) if len(self.silhouettes) > 1 else None


def best_fit(fits: Sequence[KMeansFit]) -> KMeansFit:
    """Return the fit with the highest silhouette, the first of equal ones."""
    return max(fits, key=lambda fit: fit.silhouette)


def tied_ks(fits: Sequence[KMeansFit]) -> list[int]:
    """Return the k whose silhouette cannot be told apart from the highest one.

    Two k differ if Welch's t-test of the silhouettes of their starts says so (two-sided, 0.05). It covers the random
    starts, but neither the sample of rows nor the number of k. Single starts never differ.

    Args:
        fits: Fits of the same vectors.

    >>> silhouettes = {8: (0.30, 0.31, 0.32), 9: (0.29, 0.30, 0.33), 10: (0.10, 0.11, 0.09)}
    >>> tied_ks([KMeansFit(k, np.zeros((k, 1)), values, 1.0, 99) for k, values in silhouettes.items()])
    [9]
    """
    best = best_fit(fits)
    return [fit.k for fit in fits if fit is not best and not _differ(fit, best)]


def _differ(one: KMeansFit, other: KMeansFit) -> bool:
    from scipy.stats import ttest_ind_from_stats

    if one.spread is None or other.spread is None:
        return False
    samples = [(fit.silhouette, fit.spread, len(fit.silhouettes)) for fit in (one, other)]
    return bool(ttest_ind_from_stats(*samples[0], *samples[1], equal_var=False).pvalue < _SIGNIFICANCE)


class _Start(NamedTuple):
    """Result of k-means from one set of first centroids; the inertia is a sum over the vectors."""

    inertia: float
    centroids: np.ndarray


def fit_all(
    sample: VectorSample, fit_rows: Mapping[int, int], settings: KMeansSettings, silhouette_rows: int
) -> list[KMeansFit]:
    """Fit k-means with several numbers of clusters.

    The silhouette is the mean over a sample of the rows, the same for every k and every start, and each of these is
    compared with all vectors. Compared with the sample alone, small clusters would lose most of their rows, and a
    large k would look worse than it is.

    Args:
        sample: Finite vectors.
        fit_rows: Distinct numbers of clusters, at least 2, and the number of vectors that each is fitted to.
        settings: Settings of k-means. The seed is also that of the rows of the silhouette.
        silhouette_rows: Maximum number of rows that the silhouette is averaged over.

    Returns:
        One fit per k, in ascending order of k.

    Raises:
        ScoreError: A k is not below the number of vectors, too many vectors are equal, or faiss is not installed.
    """
    vectors = sample.vectors
    if max(fit_rows) >= len(vectors):
        raise ScoreError(
            f"The silhouette at k={max(fit_rows):,} needs more than {max(fit_rows):,} vectors, and there are "
            f"{len(vectors):,}. Lower k."
        )
    rows = np.sort(np.random.default_rng(settings.seed).permutation(len(vectors))[:silhouette_rows])
    fits: list[KMeansFit] = []
    labels: dict[int, list[np.ndarray]] = {}
    for k, count in sorted(fit_rows.items()):
        starts = _starts(sample.first(count), k, settings)
        assigned = [nearest_centroids(vectors, start.centroids) for start in starts]
        best = int(np.argmin([start.inertia for start in starts]))
        inertia = float(np.square(assigned[best][1], dtype=np.float64).mean())
        fits.append(KMeansFit(k, starts[best].centroids, (), inertia, len(vectors)))
        labels[k] = [ids.astype(np.int32) for ids, _ in assigned]
    means = iter([float(values.mean()) for values in silhouettes(vectors, rows, list(chain(*labels.values())))])
    return [fit._replace(silhouettes=tuple(islice(means, len(labels[fit.k])))) for fit in fits]


def kmeans(vectors: np.ndarray, k: int, settings: KMeansSettings) -> np.ndarray:
    """Compute the centroids of k-means: those of the start with the lowest inertia.

    Args:
        vectors: Float32 of shape (rows, dimensions), all of them finite.
        k: Number of clusters.
        settings: Settings of k-means.

    Returns:
        Float32 of shape (k, dimensions).

    Raises:
        ScoreError: There are fewer vectors than centroids, too many vectors are equal, or faiss is not installed.
    """
    return min(_starts(vectors, k, settings), key=lambda start: start.inertia).centroids


def _starts(vectors: np.ndarray, k: int, settings: KMeansSettings) -> list[_Start]:
    """Run k-means from several sets of first centroids."""
    if len(vectors) < k:
        raise ScoreError(f"Cluster(k={k}) has only {len(vectors):,} vectors to fit to. Lower k.")
    run = _faiss_starts if settings.backend == "faiss" else _sklearn_starts
    starts = list(run(vectors, k, settings))
    if not starts:
        raise ScoreError(
            f"Cluster(k={k}): so many of the {len(vectors):,} vectors are equal that there are fewer clusters. "
            "Lower k."
        )
    return starts


def _sklearn_starts(vectors: np.ndarray, k: int, settings: KMeansSettings) -> Iterator[_Start]:
    """Yield the starts of `KMeans(n_init=...)`, which itself returns the best one only; none with an empty cluster."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    generator = np.random.RandomState(settings.seed % 2**32)  # goes on from start to start, as in scikit-learn
    model = KMeans(k, init=settings.init, n_init=1, max_iter=settings.max_iter, random_state=generator)
    for _ in range(settings.n_init):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of empty clusters
            model.fit(vectors)
        if len(np.unique(model.labels_)) == k:
            yield _Start(float(model.inertia_), np.asarray(model.cluster_centers_, dtype=np.float32))


def _faiss_starts(vectors: np.ndarray, k: int, settings: KMeansSettings) -> Iterator[_Start]:
    """Yield the starts of `faiss.Kmeans(nredo=...)`, which itself returns the best one only."""
    try:
        faiss = importlib.import_module("faiss")
    except ImportError as error:
        raise ScoreError(
            "Cluster(backend='faiss') needs faiss, which is not installed: pip install faiss-cpu. backend='sklearn' "
            "needs no further package, and its centroids differ."
        ) from error
    if not _has_distinct(vectors, k):
        return  # faiss would return empty clusters
    # By default faiss uses at most 256 rows per centroid, and warns if there are fewer than 39.
    limits = {"min_points_per_centroid": 1, "max_points_per_centroid": len(vectors)}
    for number in range(settings.n_init):
        seed = (settings.seed + number * _FAISS_SEED_STEP) % 2**31
        model = faiss.Kmeans(vectors.shape[1], k, niter=settings.max_iter, seed=seed, **limits)
        model.train(np.ascontiguousarray(vectors))
        yield _Start(float(model.obj[-1]), np.asarray(model.centroids, dtype=np.float32))


def _has_distinct(vectors: np.ndarray, count: int) -> bool:
    distinct = set()
    for vector in vectors:
        distinct.add(vector.tobytes())
        if len(distinct) == count:
            return True
    return False


def nearest_centroids(
    vectors: np.ndarray, centroids: np.ndarray, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Assign each vector to its nearest centroid; the lowest index wins a tie.

    Blocks of rows are computed in parallel, and their results do not depend on the number of threads. Memory beyond
    the result is a few megabytes per thread.

    Args:
        vectors: Float of shape (vectors, dimensions).
        centroids: Float of shape (k, dimensions).
        rows: Indices of the vectors to assign, int of shape (rows,); all of them by default.

    Returns:
        The index of the nearest centroid and the distance to it, each of shape (rows,).

    >>> [values.tolist() for values in nearest_centroids(np.array([[0.0, 3.0]]), np.array([[9.0, 0.0], [4.0, 0.0]]))]
    [[1], [5.0]]
    """
    count = len(vectors) if rows is None else len(rows)
    ids = np.empty(count, dtype=np.int64)
    distances = np.empty(count, dtype=np.result_type(vectors, centroids))
    # The squared distance, without the square of the vector, which is the same for all centroids. Distances to a
    # common middle are small, so that little is lost to rounding where all vectors are far from zero.
    middle = centroids.mean(axis=0)
    moved = centroids - middle
    factors, squares = -2 * moved.T, np.square(moved).sum(axis=1)

    def assign(block: slice) -> None:
        part = vectors[block] if rows is None else vectors[rows[block]]
        scores = (part - middle) @ factors
        scores += squares
        ids[block] = scores.argmin(axis=1)
        distances[block] = np.linalg.norm(part - centroids[ids[block]], axis=1)

    for_each_block(assign, count, block_rows(max(centroids.shape)))
    return ids, distances
