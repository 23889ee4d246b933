"""Distributions, overlaps and maps of selections as JSON values, for plots and cards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from hf_datasel.analysis.binning import all_integers, bin_edges, finite_values, round_significant, value_range
from hf_datasel.analysis.overlap import jaccard_of_rows
from hf_datasel.analysis.projection import principal_plane
from hf_datasel.errors import SelectionError

__all__ = [
    "Distribution",
    "EmbeddingMap",
    "Overlaps",
    "Shortlist",
    "Spread",
    "distribution",
    "distribution_by_round",
    "embedding_map",
    "overlaps",
    "threshold_of",
]


class Spread(TypedDict):
    """Distribution of a quantity over a group of rows.

    Attributes:
        name: Name of the group: `"pool"`, `"selected"`, `"Random"`, `"round 0"`.
        rows: Number of rows with a value.
        mean: Mean of all values, including those outside the bins.
        quantiles: Minimum, lower quartile, median, upper quartile and maximum of all values.
        counts: Number of rows in each bin.
    """

    name: str
    rows: int
    mean: float
    quantiles: list[float]
    counts: list[int]


class Distribution(TypedDict):
    """Distribution of a quantity over several groups of rows, in shared bins.

    Attributes:
        column: Name of the quantity, such as `"ifd"`.
        edges: Edges of the bins.
        log: Whether the bins have equal width on a logarithmic axis.
        groups: Distribution over each group.
    """

    column: str
    edges: list[float]
    log: bool
    groups: list[Spread]


class Shortlist(TypedDict):
    """Rows of the pool that several selections are limited to.

    Attributes:
        names: Names of the selections.
        rows: Number of rows in the shortlist.
        chance: Jaccard similarity expected of two random selections from it, of the size of the first selection.
    """

    names: list[str]
    rows: int
    chance: float


class Overlaps(TypedDict):
    """Jaccard similarity of every two selections from the same pool.

    Attributes:
        names: Names of the selections.
        matrix: Similarities, 0 to 1; symmetric, with ones on the diagonal.
        chance: Jaccard similarity expected of two random selections from the pool, of the size of the first selection.
        shortlist: Rows that some of the selections are limited to, or None.
    """

    names: list[str]
    matrix: list[list[float]]
    chance: float
    shortlist: Shortlist | None


class EmbeddingMap(TypedDict):
    """Numbers of rows on a grid over the two principal axes of the embeddings.

    Attributes:
        column: Column of the embeddings.
        x: Edges of the columns of the grid.
        y: Edges of the rows of the grid.
        pool: Number of rows of the pool in each cell, `pool[row][column]`.
        selected: Number of selected rows in each cell.
        explained: Share of the variance explained by the two axes, 0 to 1.
    """

    column: str
    x: list[float]
    y: list[float]
    pool: list[list[int]]
    selected: list[list[int]]
    explained: float


def distribution(
    column: str,
    groups: Mapping[str, np.ndarray],
    bins: int = 40,
    limits: tuple[float, float] | None = None,
    log: bool = False,
    threshold: float | None = None,
) -> Distribution:
    """Compute the distribution of a quantity over groups of rows, in shared bins.

    Values that are not finite are ignored. Numbers are rounded to six significant digits, outermost edges outwards.

    Args:
        column: Name of the quantity, such as `"ifd"`.
        groups: Values of each group by its name, of shape (rows,); NaN for rows without a value.
        bins: Number of bins. The edges for integers are halfway between them, and there are fewer bins if there are
            fewer integers.
        limits: Lowest and highest value in a bin. By default these include all values of groups that are at most half
            the size of the largest one, so that no selected row is hidden, and the 1st to the 99th percentile of
            larger groups.
        log: Whether bins have equal width on a logarithmic axis, as suits a ratio or a length.
        threshold: Value above or below which no row is selected; no bin has values on both sides of it.

    Returns:
        The edges, and the counts and quantiles of each group.

    Raises:
        SelectionError: If there are no groups, a group has no value, or `log` is True and a limit is 0 or less.
        ConfigError: If `bins` or `limits` are invalid.

    >>> pool = np.array([0.1, 0.2, np.nan, 0.4, 0.5])
    >>> distribution("ifd", {"pool": pool, "selected": pool[3:]}, bins=2, limits=(0, 1))["groups"][1]
    {'name': 'selected', 'rows': 2, 'mean': 0.45, 'quantiles': [0.4, 0.425, 0.45, 0.475, 0.5], 'counts': [1, 1]}
    """
    values = {name: finite_values(group) for name, group in groups.items()}
    if not values:
        raise SelectionError(f"The distribution of {column!r} needs at least one group of rows, and got none.")
    empty = [name for name, group in values.items() if not group.size]
    if empty:
        raise SelectionError(f"No row of {empty[0]!r} has a value of {column!r}.")
    integers = False
    if limits is None:
        largest = max(group.size for group in values.values())
        large = [group for group in values.values() if 2 * group.size > largest]
        small = [group for group in values.values() if 2 * group.size <= largest]
        limits = value_range(large, small)
        integers = all(all_integers(group) for group in values.values())
    edges = bin_edges(limits, bins, log, integers, threshold)
    return _distribution(column, list(values.items()), edges, log)


def distribution_by_round(
    column: str,
    rounds: Sequence[tuple[int, np.ndarray, np.ndarray]],
    bins: int = 40,
    limits: tuple[float, float] | None = None,
    log: bool = False,
    threshold: float | None = None,
) -> Distribution:
    """Compute the distribution of a score over the rows scored and over those selected in each round.

    The groups are `"round 0: scored"`, `"round 0: selected"`, `"round 1: scored"` and so on.

    Args:
        column: Name of the score.
        rounds: For each round its number, the values of the rows scored in it and those of the rows selected, each of
            shape (rows,).
        bins: Number of bins.
        limits: Lowest and highest value in a bin. By default these include all values of selected rows, and the 1st to
            the 99th percentile of those of scored rows, in all rounds.
        log: Whether bins have equal width on a logarithmic axis.
        threshold: As in `distribution`.

    Returns:
        The edges, and the counts and quantiles of each group.

    Raises:
        SelectionError: If there are no rounds, a round has no value, or `log` is True and a limit is 0 or less.
        ConfigError: If `bins` or `limits` are invalid.
    """
    if not rounds:
        raise SelectionError(f"The distribution of {column!r} over rounds needs at least one round, and got none.")
    scored = [finite_values(values) for _, values, _ in rounds]
    selected = [finite_values(values) for _, _, values in rounds]
    groups = []
    for (number, _, _), *pair in zip(rounds, scored, selected, strict=True):
        for kind, values in zip(("scored", "selected"), pair, strict=True):
            if not values.size:
                raise SelectionError(f"No {kind} row of round {number} has a score {column!r}.")
            groups.append((f"round {number}: {kind}", values))
    limits = limits or value_range([np.concatenate(scored)], selected)
    edges = bin_edges(limits, bins, log, threshold=threshold)
    return _distribution(column, groups, edges, log)


def threshold_of(records: Sequence[Mapping[str, Any]], column: str) -> float | None:
    """Return the value of a score above which, or else below which, rows were excluded; None if none were.

    Args:
        records: Provenance of selections by the same selector.
        column: Name of the score.

    >>> threshold_of([{"exclusions": {}}, {"exclusions": {"with ifd >= 1": 19}}], "ifd")
    1.0
    """
    for side in (">=", "<"):
        for reason in (name for record in records for name in record["exclusions"]):
            if match := re.fullmatch(rf"with {re.escape(column)} {side} ([-+.\de]+)", reason):
                return float(match[1])
    return None


def overlaps(
    selections: Mapping[str, np.ndarray], pool_rows: int, shortlist: tuple[Sequence[str], int] | None = None
) -> Overlaps:
    """Compute the Jaccard similarity of every two selections from the same pool.

    Args:
        selections: Row numbers of each selection by its name, int of shape (rows,), in any order.
        pool_rows: Number of rows of the pool, for the similarity expected by chance.
        shortlist: Names of the selections that are limited to the same rows of the pool, and the number of these rows.

    Returns:
        The similarities, and those expected by chance.

    Raises:
        SelectionError: If there are no selections, or the pool does not have a row number.

    >>> overlaps({"IterIT": np.array([0, 1, 2]), "Random": np.array([2, 3, 4])}, pool_rows=6)
    {'names': ['IterIT', 'Random'], 'matrix': [[1.0, 0.2], [0.2, 1.0]], 'chance': 0.333333, 'shortlist': None}
    """
    if not selections:
        raise SelectionError("The overlap of selections needs at least one of them, and got none.")
    for name, rows in selections.items():
        _check_rows(name, rows, pool_rows)
    matrix = jaccard_of_rows(list(selections.values()))
    return {
        "names": list(selections),
        "matrix": [[round_significant(value) for value in row] for row in matrix.tolist()],
        "chance": _chance(next(iter(selections.values())), pool_rows),
        "shortlist": None if shortlist is None else _shortlist(selections, *shortlist),
    }


def _shortlist(selections: Mapping[str, np.ndarray], names: Sequence[str], rows: int) -> Shortlist:
    return {"names": list(names), "rows": rows, "chance": _chance(selections[names[0]], rows)}


def _chance(selected: np.ndarray, rows: int) -> float:
    """Return the expected Jaccard similarity of two random selections of the same size."""
    size = np.unique(selected).size
    return round_significant(size / max(2 * rows - size, 1))


def embedding_map(column: str, vectors: np.ndarray, selected: np.ndarray, bins: int = 48) -> EmbeddingMap:
    """Count the rows of the pool and the selected rows on a grid over the two principal axes of their vectors.

    The axes are fitted to evenly spaced rows with a vector (at most 20,000, or 2,000 of vectors with more than 1,024
    dimensions), and are deterministic. The grid covers 99 % of the pool on either axis; its outermost cells include
    what is beyond, so that the counts add up to all rows with a vector. Vectors are read in blocks: a memory-mapped
    array is not loaded into memory.

    Args:
        column: Column of the vectors.
        vectors: Float of shape (rows, dimensions). Rows with a value that is not finite are ignored.
        selected: Row numbers, int of shape (selected,).
        bins: Number of cells on either axis.

    Returns:
        The edges and the counts of the grid.

    Raises:
        SelectionError: If `vectors` has another shape, a selected row does not exist, or no row has a vector.
        ConfigError: If `bins` is less than 1.
    """
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or not vectors.shape[1]:
        raise SelectionError(
            f"A map of {column!r} needs vectors of shape (rows, dimensions), and got {vectors.dtype} of shape "
            f"{vectors.shape}."
        )
    _check_rows("selected", selected, len(vectors))
    points, explained = principal_plane(vectors)
    has_vector = ~np.isnan(points[:, 0])
    if not has_vector.any():
        raise SelectionError(f"No row has a vector in {column!r}.")
    limits = np.percentile(points[has_vector], [0.5, 99.5], axis=0)
    x, y = (bin_edges((low, high), bins) for low, high in limits.T.tolist())
    points = np.clip(points, [x[0], y[0]], [x[-1], y[-1]])
    return {
        "column": column,
        "x": x.tolist(),
        "y": y.tolist(),
        "pool": _cell_counts(points[has_vector], x, y),
        "selected": _cell_counts(points[selected][has_vector[selected]], x, y),
        "explained": round_significant(explained),
    }


def _distribution(column: str, groups: list[tuple[str, np.ndarray]], edges: np.ndarray, log: bool) -> Distribution:
    spreads = [_spread(name, values, edges) for name, values in groups]
    return {"column": column, "edges": edges.tolist(), "log": log, "groups": spreads}


def _spread(name: str, values: np.ndarray, edges: np.ndarray) -> Spread:
    quantiles = np.percentile(values, [0, 25, 50, 75, 100])
    return {
        "name": name,
        "rows": int(values.size),
        "mean": round_significant(values.mean()),
        "quantiles": [round_significant(quantile) for quantile in quantiles.tolist()],
        "counts": np.histogram(values, edges)[0].tolist(),
    }


def _check_rows(name: str, rows: np.ndarray, pool_rows: int) -> None:
    if np.size(rows) and (np.min(rows) < 0 or np.max(rows) >= pool_rows):
        raise SelectionError(
            f"{name!r} has row numbers from {np.min(rows):,} to {np.max(rows):,}, but the pool has {pool_rows:,} rows."
        )


def _cell_counts(points: np.ndarray, x: np.ndarray, y: np.ndarray) -> list[list[int]]:
    counts: list[list[int]] = np.histogram2d(points[:, 1], points[:, 0], [y, x])[0].astype(np.int64).tolist()
    return counts
