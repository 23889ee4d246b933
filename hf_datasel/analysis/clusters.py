"""How many clusters: silhouette, inertia and quality against k, as plain numbers that go straight to JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from hf_datasel.analysis.binning import significant
from hf_datasel.errors import ScoreError
from hf_datasel.scores import Cluster

__all__ = [
    "ClusterChoice",
    "ClusterChoices",
    "ClusterQuality",
    "cluster_choice",
    "cluster_choices",
    "cluster_quality",
    "elbow_of",
]

_BLOCK = 1 << 22  # numbers that are read at once


class ClusterChoice(TypedDict):
    """How well k-means fits with several k, the lowest first.

    Attributes:
        ks: numbers of clusters.
        silhouette: -1 to 1, for each k; higher is better.
        inertia: mean squared distance of a vector to its centroid, for each k.
        best: the k of highest silhouette, the lowest of equals.
        elbow: the k at the elbow of the inertia, as `elbow_of` finds it.
        rows: vectors that were clustered.
        sample: those of them that the silhouette is the mean of.
    """

    ks: list[int]
    silhouette: list[float]
    inertia: list[float]
    best: int
    elbow: int | None
    rows: int
    sample: int


class ClusterChoices(TypedDict):
    """How well k-means fits with several k to the vectors of several embedding models.

    Attributes:
        names: of the embedding models.
        choices: for each of them, as from `cluster_choice`, all with the same k.
        variance: for each of them, the mean squared distance of a vector to the mean of all: the inertia of k = 1.
            An inertia says something across models only as a share of it.
    """

    names: list[str]
    choices: list[ClusterChoice]
    variance: list[float]


class ClusterQuality(TypedDict):
    """How many clusters are of low quality, for several numbers of clusters, the lowest first.

    Attributes:
        threshold: a cluster whose mean quality lies below it, by more than rounding, is low.
        ks: numbers of clusters.
        low: clusters that are low, for each k.
        rated: clusters in which some row has a quality. The others, empty ones among them, count neither way.
        share: `low / rated`, 0 to 1.
    """

    threshold: float
    ks: list[int]
    low: list[int]
    rated: list[int]
    share: list[float]


def cluster_choice(
    vectors: np.ndarray,
    ks: Sequence[int],
    seed: int = 42,
    sample: int = 10_000,
    init: str = "random",
    backend: str = "sklearn",
) -> ClusterChoice:
    """Cluster vectors with each k, as `Cluster` would, and say which k fits best.

    More than 131,072 vectors are sampled, as by `Cluster.fit`, and all k get the same ones. Numbers are rounded to six
    significant digits.

    Args:
        vectors: float of shape (rows, dimensions), all of them finite.
        ks: different ints of at least 2, below the number of rows.
        seed: of the first centroids and of the samples.
        sample: rows that the silhouette is the mean of, at most; each is held against all rows that were clustered.
        init: "random" or "k-means++", as in `Cluster`. Groups few and far apart need the latter.
        backend: "sklearn" or "faiss", as in `Cluster`.

    Raises:
        ConfigError: settings that cannot be.
        ScoreError: vectors of another shape or not finite, a k that is not below the rows, or too many equal vectors.

    >>> far = np.array([[0.0], [1.0], [50.0], [51.0], [90.0], [91.0]])
    >>> choice = cluster_choice(far, [2, 3, 4], init="k-means++")
    >>> choice["best"], choice["elbow"], choice["inertia"][1]
    (3, 3, 0.25)
    """
    cluster = Cluster(k=tuple(ks), seed=seed, init=init, backend=backend)
    if vectors.ndim != 2:
        raise ScoreError(f"cluster_choice takes vectors of shape (rows, dimensions), and these are {vectors.shape}.")
    missing = len(vectors) - int(np.isfinite(vectors).all(axis=1).sum())
    if missing:
        raise ScoreError(
            f"{missing:,} of {len(vectors):,} vectors hold numbers that are not finite. Leave those rows out."
        )
    fits = cluster.fits(vectors, sample)
    return {
        "ks": [fit.k for fit in fits],
        "silhouette": [significant(fit.silhouette) for fit in fits],
        "inertia": [significant(fit.inertia) for fit in fits],
        "best": max(fits, key=lambda fit: fit.silhouette).k,
        "elbow": elbow_of([fit.k for fit in fits], [fit.inertia for fit in fits]),
        "rows": fits[0].rows,
        "sample": min(sample, fits[0].rows),
    }


def cluster_choices(
    embeddings: Mapping[str, np.ndarray],
    ks: Sequence[int],
    seed: int = 42,
    sample: int = 10_000,
    init: str = "random",
    backend: str = "sklearn",
) -> ClusterChoices:
    """Cluster the same rows with each k in the vectors of several embedding models, as `cluster_choice` does in one.

    Yu et al. 2024 (2409.11378, figure 5) find that the k of highest silhouette is a good one whatever the embedding
    model. That is a comparison of k within each model: a silhouette depends on the number of dimensions too, so that a
    higher one does not make the better model.

    Args:
        embeddings: name of the model -> float of shape (rows, its dimensions), all of them finite.
        ks: different ints of at least 2, below the number of rows.
        seed: as in `cluster_choice`, as are the others.

    Raises:
        ConfigError: settings that cannot be.
        ScoreError: no embeddings, embeddings of different rows, or what `cluster_choice` raises.

    >>> far = np.array([[0.0], [1.0], [50.0], [51.0], [90.0], [91.0]])
    >>> found = cluster_choices({"MiniLM": far, "twice as far": 2 * far}, [2, 3, 4], init="k-means++")
    >>> [choice["best"] for choice in found["choices"]], found["variance"]
    ([3, 3], [1355.81, 5423.22])
    """
    if not embeddings:
        raise ScoreError("cluster_choices needs the vectors of at least one embedding model, and got none.")
    rows = {name: len(vectors) for name, vectors in embeddings.items()}
    if len(set(rows.values())) > 1:
        raise ScoreError(f"Embeddings have to be of the same rows, and these have {rows}.")
    choices = [cluster_choice(vectors, ks, seed, sample, init, backend) for vectors in embeddings.values()]
    return {
        "names": list(embeddings),
        "choices": choices,
        "variance": [significant(_variance(vectors)) for vectors in embeddings.values()],
    }


def _variance(vectors: np.ndarray) -> float:
    """Mean squared distance to the mean, reading the vectors in blocks."""
    middle = vectors.mean(axis=0, dtype=np.float64)
    step = max(_BLOCK // vectors.shape[1], 1)
    blocks = (vectors[start : start + step] - middle for start in range(0, len(vectors), step))
    return sum(float(np.square(block).sum()) for block in blocks) / len(vectors)


def elbow_of(ks: Sequence[int], inertia: Sequence[float]) -> int | None:
    """The k farthest below the straight line from the first point (k, inertia) to the last one.

    Both axes are scaled to 0 to 1 between these two points, k as it is and not its logarithm, so the answer depends on
    the range of k that was tried. None with fewer than three k, or where no point lies below the line.

    Args:
        ks: rising.
        inertia: for each k.

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
    """Count the clusters whose mean quality lies below a threshold, for each number of clusters.

    Rows without a quality or without a cluster (null, NaN, infinite) are left out. Shares are rounded to six
    significant digits.

    Args:
        ids: k -> the cluster of each row, 0 to k - 1, of shape (rows,), as in the column `cluster_id`.
        quality: of each row, of shape (rows,), such as a reward from 0 to 1.
        threshold: on the scale of `quality`; 0.3 is published, for a reward from 0 to 1.

    Raises:
        ScoreError: no k, arrays that do not go together, clusters that are not 0 to k - 1, or no row with a quality.

    >>> ids = {2: np.array([0, 0, 1, 1]), 4: np.array([0, 1, 2, 2])}
    >>> cluster_quality(ids, np.array([0.1, 0.9, 0.6, np.nan]))["share"]
    [0.0, 0.333333]
    """
    if not ids:
        raise ScoreError("cluster_quality needs the clusters of at least one k, and got none.")
    values = np.asarray(quality, dtype=np.float64)  # None becomes NaN
    counts = {k: _low_and_rated(k, ids[k], values, threshold) for k in sorted(ids)}
    return {
        "threshold": float(threshold),
        "ks": list(counts),
        "low": [low for low, _ in counts.values()],
        "rated": [rated for _, rated in counts.values()],
        "share": [significant(low / rated) for low, rated in counts.values()],
    }


def _low_and_rated(k: int, ids: np.ndarray, quality: np.ndarray, threshold: float) -> tuple[int, int]:
    numbers = np.asarray(ids, dtype=np.float64)
    if numbers.shape != quality.shape or numbers.ndim != 1:
        raise ScoreError(
            f"Clusters of shape {numbers.shape} at k={k:,} do not go with qualities of shape {quality.shape}: both "
            "have one number a row."
        )
    there = numbers[np.isfinite(numbers)]
    if ((there < 0) | (there >= k) | (there != np.floor(there))).any():
        raise ScoreError(
            f"Clusters at k={k:,} have to be whole numbers from 0 to {k - 1:,}, and go from {there.min():g} to "
            f"{there.max():g}."
        )
    known = np.isfinite(numbers) & np.isfinite(quality)
    if not known.any():
        raise ScoreError(f"No row has both a quality and a cluster at k={k:,}.")
    at = numbers[known].astype(np.int64)
    sizes = np.bincount(at, minlength=k)
    means = np.bincount(at, quality[known], minlength=k)[sizes > 0] / sizes[sizes > 0]
    return int(((means < threshold) & ~np.isclose(means, threshold, rtol=1e-6, atol=0)).sum()), len(means)
