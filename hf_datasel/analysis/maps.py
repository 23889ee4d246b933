"""Where the chosen rows lie among the others, as a t-SNE map: points, and which of them were chosen."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TypedDict

import numpy as np

from hf_datasel.errors import ConfigError, SelectionError

__all__ = ["TsneMap", "tsne_map"]

_BLOCK = 1 << 22  # numbers that are read at once
_COMPONENTS = 50  # principal ones that t-SNE is given
_FEWEST = 5  # rows that make a map


class TsneMap(TypedDict):
    """Rows in two dimensions, by t-SNE.

    Attributes:
        column: the vectors.
        rows: row numbers of the points, rising.
        points: x and y of each, whole numbers: the map is 10,000 wide or high, whichever is more.
        sampled: positions in `rows` of those that stand for the pool: an even sample of it.
        chosen: name of the selection -> positions in `rows` of those that it chose.
        pool_rows: rows of the pool that have a vector.
        chosen_rows: name of the selection -> rows that it chose and that have a vector, also those not in the map.
        perplexity: about how many neighbours of a row shape its place.
        seed: of the sample and of the map.
    """

    column: str
    rows: list[int]
    points: list[list[int]]
    sampled: list[int]
    chosen: dict[str, list[int]]
    pool_rows: int
    chosen_rows: dict[str, int]
    perplexity: float
    seed: int


def tsne_map(
    column: str,
    vectors: np.ndarray,
    chosen: Mapping[str, np.ndarray],
    sample: int = 3_000,
    most_chosen: int = 1_000,
    perplexity: float = 30.0,
    seed: int = 0,
) -> TsneMap:
    """Lay a sample of the pool and the chosen rows out by t-SNE, so that rows with similar vectors lie close together.

    What such a map shows: which rows are neighbours, and so whether a choice reaches into every group or keeps to
    some. What it cannot show: how far groups are from each other, how large or dense they are, and how many there
    are. The distance between two groups and the empty space between them mean nothing, and another seed or perplexity
    moves them. Nor does the share of coloured points say how much was chosen, since all of it is drawn, and only a
    sample of the pool. `embedding_map` counts every row, on principal axes along which distances mean something.

    Vectors are first projected on their 50 principal components, as is usual (and as scikit-learn recommends); t-SNE
    then starts from the first two of these. The map is the same for a seed on one machine, whatever the number of
    threads; another version of scikit-learn or another processor may give another one. 3,000 rows take about half a
    minute on one core; a memory-mapped array is not loaded.

    Args:
        column: name of the vectors.
        vectors: float of shape (rows, numbers). Rows with a value that is not finite have no vector, and no point.
        chosen: name of the selection -> row numbers, int of shape (chosen,).
        sample: rows of the pool at most, drawn evenly; chosen ones among them or not.
        most_chosen: rows of each selection at most, its best ones being no likelier than the others.
        perplexity: about how many neighbours of a row shape its place: 5 to 50 are usual, and it is lowered to a third
            of the points where these are few.
        seed: of the sample and of the map.

    Raises:
        SelectionError: `vectors` of another shape, a chosen row that is not there, fewer than five rows with a vector,
            or vectors that are all the same.
        ConfigError: numbers of rows below 1, a perplexity of 0 or less, or a seed that is none.

    >>> vectors = np.random.default_rng(0).normal(size=(60, 8)) + 9 * (np.arange(60) % 2)[:, None]
    >>> found = tsne_map("embedding", vectors, {"first": np.arange(20)}, sample=40)
    >>> len(found["sampled"]), len(found["chosen"]["first"]), found["pool_rows"]
    (40, 20, 60)
    """
    _check_numbers(sample, most_chosen, perplexity, seed)
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or not vectors.shape[1]:
        raise SelectionError(
            f"A map of {column!r} needs numbers of shape (rows, numbers), and got {vectors.dtype} of shape "
            f"{vectors.shape}."
        )
    there = _with_vector(vectors)
    usable = {name: _usable(name, rows, there) for name, rows in chosen.items()}
    rng = np.random.default_rng(seed)
    sampled = _some(np.flatnonzero(there), sample, rng)
    drawn = {name: _some(rows, most_chosen, rng) for name, rows in usable.items()}
    rows = np.unique(np.concatenate([sampled, *drawn.values()]))
    if len(rows) < _FEWEST:
        raise SelectionError(f"A map needs at least {_FEWEST} rows with a vector in {column!r}, and has {len(rows)}.")
    perplexity = min(perplexity, (len(rows) - 1) / 3)
    return {
        "column": column,
        "rows": rows.tolist(),
        "points": _points(column, np.asarray(vectors[rows], dtype=np.float64), perplexity, seed),
        "sampled": np.searchsorted(rows, sampled).tolist(),
        "chosen": {name: np.searchsorted(rows, each).tolist() for name, each in drawn.items()},
        "pool_rows": int(there.sum()),
        "chosen_rows": {name: len(each) for name, each in usable.items()},
        "perplexity": float(perplexity),
        "seed": seed,
    }


def _points(column: str, vectors: np.ndarray, perplexity: float, seed: int) -> list[list[int]]:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    vectors = vectors - vectors.mean(axis=0)
    widest = np.abs(vectors).max()
    if widest < 1e-9:
        raise SelectionError(f"The vectors in {column!r} are all the same, so that there is nothing to map.")
    vectors /= widest
    # one thread: the sums of several would be rounded in the order in which they finish
    with importlib.import_module("threadpoolctl").threadpool_limits(limits=1):
        kept = min(_COMPONENTS, *vectors.shape)
        solver = "randomized" if min(vectors.shape) > 2 * kept else "full"
        reduced = PCA(kept, svd_solver=solver, random_state=seed).fit_transform(vectors)
        start = np.zeros((len(reduced), 2), dtype=np.float32)
        start[:, : min(kept, 2)] = reduced[:, :2] / reduced[:, 0].std() * 1e-4
        laid = TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(reduced.astype(np.float32))
    laid = laid - laid.min(axis=0)
    points: list[list[int]] = np.rint(laid * (10_000 / max(laid.max(), 1e-12))).astype(np.int64).tolist()
    return points


def _with_vector(vectors: np.ndarray) -> np.ndarray:
    step = max(_BLOCK // vectors.shape[1], 1)
    blocks = [np.isfinite(vectors[at : at + step]).all(axis=1) for at in range(0, len(vectors), step)]
    return np.concatenate([np.empty(0, dtype=bool), *blocks])


def _usable(name: str, rows: np.ndarray, there: np.ndarray) -> np.ndarray:
    numbers = np.unique(np.asarray(rows, dtype=np.int64))
    if numbers.size and not 0 <= numbers[0] <= numbers[-1] < len(there):
        raise SelectionError(
            f"{name!r} has row numbers from {numbers[0]:,} to {numbers[-1]:,}, but the pool has {len(there):,} rows."
        )
    usable: np.ndarray = numbers[there[numbers]]
    return usable


def _some(rows: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """All rows, or as many of them as are wanted, rising."""
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))


def _check_numbers(sample: int, most_chosen: int, perplexity: float, seed: int) -> None:
    for name, value, low in (("sample", sample, 1), ("most_chosen", most_chosen, 1), ("seed", seed, 0)):
        if type(value) is not int or value < low:
            raise ConfigError(f"{name}={value!r} has to be an int of at least {low}.")
    if isinstance(perplexity, bool) or not isinstance(perplexity, int | float) or not 0 < perplexity < float("inf"):
        raise ConfigError(f"perplexity={perplexity!r} has to be a number above 0.")
