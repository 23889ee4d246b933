"""t-SNE map of a sample of the pool and the selected rows."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TypedDict

import numpy as np

from hf_datasel.errors import ConfigError, SelectionError

__all__ = ["TsneMap", "tsne_map"]

_BLOCK = 1 << 22  # numbers read at once
_COMPONENTS = 50  # principal components that are the input of t-SNE
_MIN_ROWS = 5


class TsneMap(TypedDict):
    """Rows in two dimensions, by t-SNE.

    Attributes:
        column: Column of the vectors.
        rows: Row numbers of the points, rising.
        points: x and y of each point, whole numbers; the longer side of the map is 10,000.
        sampled: Positions in `rows` of the sample of the pool.
        selected: Positions in `rows` of the rows of each selection, by its name.
        pool_rows: Number of rows of the pool with a vector.
        selected_rows: Number of selected rows with a vector, including those not in the map, by name of the selection.
        perplexity: Perplexity of t-SNE.
        seed: Random seed of the sample and the map.
    """

    column: str
    rows: list[int]
    points: list[list[int]]
    sampled: list[int]
    selected: dict[str, list[int]]
    pool_rows: int
    selected_rows: dict[str, int]
    perplexity: float
    seed: int


def tsne_map(
    column: str,
    vectors: np.ndarray,
    selected: Mapping[str, np.ndarray],
    sample: int = 3_000,
    max_selected: int = 1_000,
    perplexity: float = 30.0,
    seed: int = 0,
) -> TsneMap:
    """Compute a t-SNE map of a sample of the pool and the selected rows, in which similar vectors are close.

    Such a map shows which rows are neighbours, and so whether a selection covers all groups or only some. It does not
    show the distance between groups, their size or density, or how many there are: distances between groups and empty
    space have no meaning, and change with seed and perplexity. The share of selected points is not the share of
    selected rows, since the pool is sampled and selections are not. See `embedding_map` for a plot of all rows on
    principal axes, on which distances have a meaning.

    Vectors are first projected onto their 50 principal components, as scikit-learn recommends; t-SNE is initialized
    with the first two. For a seed, the map is the same on one machine, whatever the number of threads; it may differ
    between versions of scikit-learn and processors. 3,000 rows take about half a minute on one core. A memory-mapped
    array is not loaded into memory.

    Args:
        column: Column of the vectors.
        vectors: Float of shape (rows, dimensions). Rows with a value that is not finite are ignored.
        selected: Row numbers of each selection by its name, int of shape (selected,).
        sample: Maximum number of rows of the pool, sampled uniformly, selected or not.
        max_selected: Maximum number of rows of each selection, sampled uniformly.
        perplexity: Approximate number of neighbours of a row; 5 to 50 are usual. At most a third of the points.
        seed: Random seed of the sample and the map.

    Returns:
        The points, and which of them belong to the pool's sample and the selections.

    Raises:
        SelectionError: If `vectors` has another shape, a selected row does not exist, fewer than five rows have a
            vector, or all vectors are equal.
        ConfigError: If a number of rows is less than 1, the perplexity is not positive, or the seed is negative.

    >>> vectors = np.random.default_rng(0).normal(size=(60, 8)) + 9 * (np.arange(60) % 2)[:, None]
    >>> tsne = tsne_map("embedding", vectors, {"first": np.arange(20)}, sample=40)
    >>> len(tsne["sampled"]), len(tsne["selected"]["first"]), tsne["pool_rows"]
    (40, 20, 60)
    """
    _check_settings(sample, max_selected, perplexity, seed)
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or not vectors.shape[1]:
        raise SelectionError(
            f"A map of {column!r} needs vectors of shape (rows, dimensions), and got {vectors.dtype} of shape "
            f"{vectors.shape}."
        )
    has_vector = _has_vector(vectors)
    selected_rows = {name: _rows_with_vector(name, rows, has_vector) for name, rows in selected.items()}
    rng = np.random.default_rng(seed)
    sampled = _sample(np.flatnonzero(has_vector), sample, rng)
    drawn = {name: _sample(rows, max_selected, rng) for name, rows in selected_rows.items()}
    rows = np.unique(np.concatenate([sampled, *drawn.values()]))
    if len(rows) < _MIN_ROWS:
        raise SelectionError(
            f"A map needs at least {_MIN_ROWS} rows with a vector in {column!r}, and has {len(rows)}."
        )
    perplexity = min(perplexity, (len(rows) - 1) / 3)
    return {
        "column": column,
        "rows": rows.tolist(),
        "points": _points(column, np.asarray(vectors[rows], dtype=np.float64), perplexity, seed),
        "sampled": np.searchsorted(rows, sampled).tolist(),
        "selected": {name: np.searchsorted(rows, subset).tolist() for name, subset in drawn.items()},
        "pool_rows": int(has_vector.sum()),
        "selected_rows": {name: len(subset) for name, subset in selected_rows.items()},
        "perplexity": float(perplexity),
        "seed": seed,
    }


def _points(column: str, vectors: np.ndarray, perplexity: float, seed: int) -> list[list[int]]:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    vectors = vectors - vectors.mean(axis=0)
    largest = np.abs(vectors).max()
    if largest < 1e-9:
        raise SelectionError(f"The vectors in {column!r} are all equal, so that there is nothing to map.")
    vectors /= largest
    # one thread: with several, sums are rounded in the order in which the threads finish
    with importlib.import_module("threadpoolctl").threadpool_limits(limits=1):
        components = min(_COMPONENTS, *vectors.shape)
        solver = "randomized" if min(vectors.shape) > 2 * components else "full"
        reduced = PCA(components, svd_solver=solver, random_state=seed).fit_transform(vectors)
        init = np.zeros((len(reduced), 2), dtype=np.float32)
        init[:, : min(components, 2)] = reduced[:, :2] / reduced[:, 0].std() * 1e-4
        points = TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(reduced.astype(np.float32))
    points = points - points.min(axis=0)
    scaled: list[list[int]] = np.rint(points * (10_000 / max(points.max(), 1e-12))).astype(np.int64).tolist()
    return scaled


def _has_vector(vectors: np.ndarray) -> np.ndarray:
    step = max(_BLOCK // vectors.shape[1], 1)
    blocks = [np.isfinite(vectors[start : start + step]).all(axis=1) for start in range(0, len(vectors), step)]
    return np.concatenate([np.empty(0, dtype=bool), *blocks])


def _rows_with_vector(name: str, rows: np.ndarray, has_vector: np.ndarray) -> np.ndarray:
    numbers = np.unique(np.asarray(rows, dtype=np.int64))
    if numbers.size and not 0 <= numbers[0] <= numbers[-1] < len(has_vector):
        raise SelectionError(
            f"{name!r} has row numbers from {numbers[0]:,} to {numbers[-1]:,}, but the pool has {len(has_vector):,} "
            "rows."
        )
    with_vector: np.ndarray = numbers[has_vector[numbers]]
    return with_vector


def _sample(rows: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Return all rows, or a random sample of `limit` of them, rising."""
    return rows if len(rows) <= limit else np.sort(rng.choice(rows, limit, replace=False))


def _check_settings(sample: int, max_selected: int, perplexity: float, seed: int) -> None:
    for name, value, low in (("sample", sample, 1), ("max_selected", max_selected, 1), ("seed", seed, 0)):
        if type(value) is not int or value < low:
            raise ConfigError(f"{name}={value!r} has to be an int of at least {low}.")
    if isinstance(perplexity, bool) or not isinstance(perplexity, int | float) or not 0 < perplexity < float("inf"):
        raise ConfigError(f"perplexity={perplexity!r} has to be a number above 0.")
