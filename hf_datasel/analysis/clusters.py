"""How well k-means fits with several numbers of clusters, and the quality of their clusters, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from hf_datasel.analysis.binning import round_significant
from hf_datasel.errors import ScoreError
from hf_datasel.scores import Cluster
from hf_datasel.scoring.kmeans import best_fit, tied_ks
from hf_datasel.scoring.vector_sample import finite_rows

__all__ = [
    "ClusterFits",
    "ClusterFitsByModel",
    "ClusterQuality",
    "cluster_fits",
    "cluster_fits_by_model",
    "cluster_quality",
    "elbow_of",
]

_BLOCK = 1 << 22  # numbers read at once


class ClusterFits(TypedDict):
    """How well k-means fits with several k.

    Attributes:
        ks: Numbers of clusters, rising.
        silhouette: Silhouette coefficient for each k, -1 to 1; higher is better. The mean over the starts of k-means.
        spread: Standard deviation of the silhouettes of the starts, for each k; None for a single start.
        starts: Number of starts.
        inertia: Mean squared distance of a vector to its centroid, for each k, in the best start.
        best: The k of the highest silhouette; the lowest of equal ones.
        ties: Other k, rising, whose silhouette cannot be told apart from the highest one, by Welch's t-test of the
            starts (two-sided, 0.05); all of them for a single start.
        elbow: The k at the elbow of the inertia, as computed by `elbow_of`.
        rows: Number of vectors that were clustered.
        sample: Number of vectors in the mean of the silhouette.
    """

    ks: list[int]
    silhouette: list[float]
    spread: list[float | None]
    starts: int
    inertia: list[float]
    best: int
    ties: list[int]
    elbow: int | None
    rows: int
    sample: int


class ClusterFitsByModel(TypedDict):
    """How well k-means fits with several k to the vectors of several embedding models.

    Attributes:
        names: Names of the embedding models.
        fits: Result of `cluster_fits` for each model, with the same k.
        variance: For each model, the mean squared distance of a vector to the mean, which is the inertia of k = 1.
            Inertias of different models are comparable only as a share of it.
    """

    names: list[str]
    fits: list[ClusterFits]
    variance: list[float]


class ClusterQuality(TypedDict):
    """Number of clusters of low quality, for several numbers of clusters.

    Attributes:
        threshold: A cluster is low if its mean quality is below this, by more than a rounding error.
        ks: Numbers of clusters, rising.
        low: Number of low clusters, for each k.
        rated: Number of clusters with a row that has a quality. Other clusters, including empty ones, are not counted.
        share: `low / rated`, 0 to 1.
    """

    threshold: float
    ks: list[int]
    low: list[int]
    rated: list[int]
    share: list[float]


def cluster_fits(
    vectors: np.ndarray,
    ks: Sequence[int],
    seed: int = 42,
    sample: int = 10_000,
    **settings: Any,
) -> ClusterFits:
    """Cluster vectors with each k, as `Cluster` does, and compute how well each k fits.

    Each k is fitted to as many vectors as in `Cluster.fit`, and compared on those of the largest k. Numbers are
    rounded to six significant digits.

    Args:
        vectors: Finite vectors, float of shape (rows, dimensions).
        ks: Numbers of clusters: distinct ints of at least 2, less than the number of rows.
        seed: Random seed of the initial centroids and the samples.
        sample: Maximum number of rows in the mean of the silhouette; each is compared with all clustered rows.
        **settings: Other settings of `Cluster`: `n_init` (the number of starts), `max_iter`, `max_fit_rows`,
            `backend`, and `init`, which has to be "k-means++" for a few distant groups.

    Returns:
        The silhouette and the inertia for each k, and the best k by either.

    Raises:
        ConfigError: If a setting is invalid.
        ScoreError: If the vectors have another shape or are not finite, a k is not less than the number of rows, or
            too many vectors are equal.

    >>> far = np.array([[0.0], [1.0], [50.0], [51.0], [90.0], [91.0]])
    >>> fits = cluster_fits(far, [2, 3, 4], init="k-means++")
    >>> fits["best"], fits["ties"], fits["elbow"], fits["inertia"][1]
    (3, [], 3, 0.25)
    """
    cluster = Cluster(k=tuple(ks), seed=seed, **settings)
    if vectors.ndim != 2:
        raise ScoreError(f"cluster_fits takes vectors of shape (rows, dimensions), and these are {vectors.shape}.")
    missing = len(vectors) - int(finite_rows(vectors).sum())
    if missing:
        raise ScoreError(
            f"{missing:,} of {len(vectors):,} vectors hold numbers that are not finite. Remove those rows."
        )
    fits = cluster.fits(vectors, sample)
    return {
        "ks": [fit.k for fit in fits],
        "silhouette": [round_significant(fit.silhouette) for fit in fits],
        "spread": [None if fit.spread is None else round(fit.spread, 6) for fit in fits],
        "starts": cluster.n_init,
        "inertia": [round_significant(fit.inertia) for fit in fits],
        "best": best_fit(fits).k,
        "ties": tied_ks(fits),
        "elbow": elbow_of([fit.k for fit in fits], [fit.inertia for fit in fits]),
        "rows": fits[0].rows,
        "sample": min(sample, fits[0].rows),
    }


def cluster_fits_by_model(
    embeddings: Mapping[str, np.ndarray],
    ks: Sequence[int],
    seed: int = 42,
    sample: int = 10_000,
    **settings: Any,
) -> ClusterFitsByModel:
    """Apply `cluster_fits` to the vectors that several embedding models compute for the same rows.

    Yu et al. 2024 (2409.11378, figure 5) find that the k of the highest silhouette is a good one for every embedding
    model. Compare k within each model only: a silhouette also depends on the number of dimensions, so that a higher
    one does not mean a better model.

    Args:
        embeddings: Finite vectors by name of the model, float of shape (rows, dimensions of the model).
        ks: Numbers of clusters: distinct ints of at least 2, less than the number of rows.
        seed: Random seed of the initial centroids and the samples.
        sample: Maximum number of rows in the mean of the silhouette.
        **settings: Other settings of `Cluster`, as in `cluster_fits`.

    Returns:
        The fits of each model.

    Raises:
        ConfigError: If a setting is invalid.
        ScoreError: If there are no embeddings, their numbers of rows differ, or `cluster_fits` raises it.

    >>> far = np.array([[0.0], [1.0], [50.0], [51.0], [90.0], [91.0]])
    >>> by_model = cluster_fits_by_model({"MiniLM": far, "twice as far": 2 * far}, [2, 3, 4], init="k-means++")
    >>> [fits["best"] for fits in by_model["fits"]], by_model["variance"]
    ([3, 3], [1355.81, 5423.22])
    """
    if not embeddings:
        raise ScoreError("cluster_fits_by_model needs the vectors of at least one embedding model, and got none.")
    rows = {name: len(vectors) for name, vectors in embeddings.items()}
    if len(set(rows.values())) > 1:
        raise ScoreError(f"Embeddings have to be of the same rows, and these have {rows}.")
    return {
        "names": list(embeddings),
        "fits": [cluster_fits(vectors, ks, seed, sample, **settings) for vectors in embeddings.values()],
        "variance": [round_significant(_variance(vectors)) for vectors in embeddings.values()],
    }


def _variance(vectors: np.ndarray) -> float:
    """Return the mean squared distance to the mean, reading the vectors in blocks."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    step = max(_BLOCK // vectors.shape[1], 1)
    blocks = (vectors[start : start + step] - mean for start in range(0, len(vectors), step))
    return sum(float(np.square(block).sum()) for block in blocks) / len(vectors)


def elbow_of(ks: Sequence[int], inertia: Sequence[float]) -> int | None:
    """Return the k farthest below the straight line from the first point (k, inertia) to the last one.

    Both axes are scaled to 0 to 1 between these two points; k is not transformed to its logarithm. The result depends
    on the range of k.

    Args:
        ks: Numbers of clusters, rising.
        inertia: Inertia for each k.

    Returns:
        The k; None if there are fewer than three k, or no point is below the line.

    >>> elbow_of([2, 3, 4, 8], [9.0, 2.0, 1.5, 1.0])
    3
    >>> elbow_of([2, 3, 4], [3.0, 2.0, 1.0]) is None
    True
    """
    x, y = np.asarray(ks, dtype=np.float64), np.asarray(inertia, dtype=np.float64)
    if len(x) < 3 or y[0] <= y[-1]:
        return None
    depth = 1 - (x - x[0]) / (x[-1] - x[0]) - (y - y[-1]) / (y[0] - y[-1])
    deepest = int(depth.argmax())
    return int(ks[deepest]) if depth[deepest] > 1e-9 else None


def cluster_quality(ids: Mapping[int, np.ndarray], quality: np.ndarray, threshold: float = 0.3) -> ClusterQuality:
    """Count the clusters whose mean quality is below a threshold, for each number of clusters.

    Rows without a quality or a cluster (null, NaN, infinite) are ignored. Shares are rounded to six significant
    digits.

    Args:
        ids: Cluster of each row by number of clusters k: 0 to k - 1, of shape (rows,), as in the column `cluster_id`.
        quality: Quality of each row, of shape (rows,), such as a reward from 0 to 1.
        threshold: Threshold on the scale of `quality`; 0.3 is the published value for a reward from 0 to 1.

    Returns:
        The number and the share of low clusters for each k.

    Raises:
        ScoreError: If there is no k, shapes differ, a cluster is not in 0 to k - 1, or no row has a quality.

    >>> ids = {2: np.array([0, 0, 1, 1]), 4: np.array([0, 1, 2, 2])}
    >>> cluster_quality(ids, np.array([0.1, 0.9, 0.6, np.nan]))["share"]
    [0.0, 0.333333]
    """
    if not ids:
        raise ScoreError("cluster_quality needs the clusters of at least one k, and got none.")
    values = np.asarray(quality, dtype=np.float64)  # None becomes NaN
    counts = {k: _count_clusters(k, ids[k], values, threshold) for k in sorted(ids)}
    return {
        "threshold": float(threshold),
        "ks": list(counts),
        "low": [low for low, _ in counts.values()],
        "rated": [rated for _, rated in counts.values()],
        "share": [round_significant(low / rated) for low, rated in counts.values()],
    }


def _count_clusters(k: int, ids: np.ndarray, quality: np.ndarray, threshold: float) -> tuple[int, int]:
    """Return the number of low clusters and of rated clusters."""
    numbers = np.asarray(ids, dtype=np.float64)
    if numbers.shape != quality.shape or numbers.ndim != 1:
        raise ScoreError(
            f"Clusters of shape {numbers.shape} at k={k:,} do not go with qualities of shape {quality.shape}: both "
            "need one number per row."
        )
    finite = numbers[np.isfinite(numbers)]
    if ((finite < 0) | (finite >= k) | (finite != np.floor(finite))).any():
        raise ScoreError(
            f"Clusters at k={k:,} have to be whole numbers from 0 to {k - 1:,}, and go from {finite.min():g} to "
            f"{finite.max():g}."
        )
    rated = np.isfinite(numbers) & np.isfinite(quality)
    if not rated.any():
        raise ScoreError(f"No row has both a quality and a cluster at k={k:,}.")
    clusters = numbers[rated].astype(np.int64)
    sizes = np.bincount(clusters, minlength=k)
    means = np.bincount(clusters, quality[rated], minlength=k)[sizes > 0] / sizes[sizes > 0]
    low = (means < threshold) & ~np.isclose(means, threshold, rtol=1e-6, atol=0)
    return int(low.sum()), len(means)
