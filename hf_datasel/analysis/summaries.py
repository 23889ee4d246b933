"""What plots and cards show, as plain numbers that go straight to JSON: no rows, no text, no arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from hf_datasel.analysis.binning import are_whole, edges_between, finite, limits_of, significant
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
    """How a quantity is spread over some rows.

    Attributes:
        name: of these rows: `"pool"`, `"chosen"`, `"Random"`, `"round 0"`.
        rows: how many of them have a value.
        mean: of all values, those outside the edges too, as are the quantiles.
        quantiles: minimum, lower quartile, median, upper quartile, maximum.
        counts: rows in each bin.
    """

    name: str
    rows: int
    mean: float
    quantiles: list[float]
    counts: list[int]


class Distribution(TypedDict):
    """One quantity over several groups of rows, in shared bins.

    Attributes:
        column: the quantity, such as `"ifd"`.
        edges: of the bins, one more than there are bins.
        log: whether the bins are of equal width on a logarithmic axis.
        groups: the rows it is shown for.
    """

    column: str
    edges: list[float]
    log: bool
    groups: list[Spread]


class Shortlist(TypedDict):
    """Rows that some choices are all from, fewer than the pool.

    Attributes:
        names: of these choices.
        rows: how many there are to choose from.
        chance: what two random choices from them would share, of the size of the first of these choices.
    """

    names: list[str]
    rows: int
    chance: float


class Overlaps(TypedDict):
    """Jaccard similarity of every two choices from the same pool.

    Attributes:
        names: of the choices.
        matrix: symmetric, 0 to 1, ones on the diagonal.
        chance: what two random choices from the whole pool would share, of the first one's size.
        shortlist: that some of them are from, or None where it is the pool that all are from.
    """

    names: list[str]
    matrix: list[list[float]]
    chance: float
    shortlist: Shortlist | None


class EmbeddingMap(TypedDict):
    """Vectors in two dimensions, as counts on a grid.

    Attributes:
        column: the vectors.
        x: edges of the grid's columns.
        y: edges of the grid's rows.
        pool: rows of the pool in each cell, `pool[row][column]`.
        chosen: chosen rows in each cell.
        explained: share of the variance that the two axes hold, 0 to 1.
    """

    column: str
    x: list[float]
    y: list[float]
    pool: list[list[int]]
    chosen: list[list[int]]
    explained: float


def distribution(
    column: str,
    groups: Mapping[str, np.ndarray],
    bins: int = 40,
    limits: tuple[float, float] | None = None,
    log: bool = False,
    threshold: float | None = None,
) -> Distribution:
    """Count how a quantity is spread over groups of rows, in bins that all of them share.

    Values that are not finite are ignored. Numbers are rounded to six significant digits, outermost edges outwards.

    Args:
        column: name of the quantity, such as `"ifd"`.
        groups: name -> values, of shape (rows,). NaN where a row has none.
        bins: how many. Whole numbers get edges between them, and fewer bins where there are fewer numbers.
        limits: of the bins. By default they reach every value of a group that is at most half as large as the largest
            one, and of the larger groups all but the last hundredth at either end: no chosen row is hidden behind a
            tail of the pool. If all values are the same, a bin of some width is put around them.
        log: bins of equal width on a logarithmic axis, which suits a ratio or a length.
        threshold: from which on, or below which, nothing is chosen: no bin holds values on both sides of it.

    Raises:
        SelectionError: no groups, a group without any value, or `log` with limits of 0 or less.
        ConfigError: `bins` or `limits` that nothing can be counted in.

    >>> pool = np.array([0.1, 0.2, np.nan, 0.4, 0.5])
    >>> distribution("ifd", {"pool": pool, "chosen": pool[3:]}, bins=2, limits=(0, 1))["groups"][1]
    {'name': 'chosen', 'rows': 2, 'mean': 0.45, 'quantiles': [0.4, 0.425, 0.45, 0.475, 0.5], 'counts': [1, 1]}
    """
    values = {name: finite(each) for name, each in groups.items()}
    if not values:
        raise SelectionError(f"The distribution of {column!r} needs at least one group of rows, and got none.")
    empty = [name for name, each in values.items() if not each.size]
    if empty:
        raise SelectionError(f"No row of {empty[0]!r} has a value of {column!r}.")
    whole = False
    if limits is None:
        most = max(each.size for each in values.values())
        cut = [each for each in values.values() if 2 * each.size > most]
        limits = limits_of(cut, [each for each in values.values() if 2 * each.size <= most])
        whole = all(are_whole(each) for each in values.values())
    edges = edges_between(limits, bins, log, whole, threshold)
    return _summary(column, list(values.items()), edges, log)


def distribution_by_round(
    column: str,
    rounds: Sequence[tuple[int, np.ndarray, np.ndarray]],
    bins: int = 40,
    limits: tuple[float, float] | None = None,
    log: bool = False,
    threshold: float | None = None,
) -> Distribution:
    """Count how a score was spread over the rows scored and over those chosen, round by round.

    Its groups are `"round 0: scored"`, `"round 0: chosen"`, `"round 1: scored"` and so on.

    Args:
        column: name of the score.
        rounds: number of the round, values of the rows scored in it, values of those chosen; each of shape (rows,).
        bins: how many.
        limits: of the bins; by default they reach every value chosen, and all but the last hundredth of those scored,
            all rounds together, at either end.
        log: bins of equal width on a logarithmic axis.
        threshold: as in `distribution`.

    Raises:
        SelectionError: no rounds, one without any value, or `log` with limits of 0 or less.
        ConfigError: `bins` or `limits` that nothing can be counted in.
    """
    if not rounds:
        raise SelectionError(f"The distribution of {column!r} over rounds needs at least one round, and got none.")
    scored, chosen = [finite(values) for _, values, _ in rounds], [finite(values) for _, _, values in rounds]
    groups = []
    for (number, _, _), *pair in zip(rounds, scored, chosen, strict=True):
        for kind, values in zip(("scored", "chosen"), pair, strict=True):
            if not values.size:
                raise SelectionError(f"No {kind} row of round {number} has a score {column!r}.")
            groups.append((f"round {number}: {kind}", values))
    limits = limits or limits_of([np.concatenate(scored)], chosen)
    edges = edges_between(limits, bins, log, threshold=threshold)
    return _summary(column, groups, edges, log)


def threshold_of(records: Sequence[Mapping[str, Any]], column: str) -> float | None:
    """The value of a score from which on rows were left out, or else below which; None where none were.

    Args:
        records: provenance of selections by the same selector.
        column: name of the score.

    >>> threshold_of([{"left_out": {}}, {"left_out": {"with ifd >= 1": 19}}], "ifd")
    1.0
    """
    for side in (">=", "<"):
        for reason in (name for each in records for name in each["left_out"]):
            if found := re.fullmatch(rf"with {re.escape(column)} {side} ([-+.\de]+)", reason):
                return float(found[1])
    return None


def overlaps(
    named: Mapping[str, np.ndarray], pool_rows: int, shortlist: tuple[Sequence[str], int] | None = None
) -> Overlaps:
    """Compare choices of rows from the same pool, two by two.

    Args:
        named: name -> row numbers of the pool, int of shape (rows,), in any order.
        pool_rows: how many rows there were to choose from; chance depends on it.
        shortlist: names of those choices that are all from the same few rows of the pool, and how many these are.

    Raises:
        SelectionError: no choices, or a row number that the pool does not have.

    >>> overlaps({"IterIT": np.array([0, 1, 2]), "Random": np.array([2, 3, 4])}, pool_rows=6)
    {'names': ['IterIT', 'Random'], 'matrix': [[1.0, 0.2], [0.2, 1.0]], 'chance': 0.333333, 'shortlist': None}
    """
    if not named:
        raise SelectionError("The overlap of choices needs at least one of them, and got none.")
    for name, rows in named.items():
        _check_rows(name, rows, pool_rows)
    matrix = jaccard_of_rows(list(named.values()))
    return {
        "names": list(named),
        "matrix": [[significant(each) for each in row] for row in matrix.tolist()],
        "chance": _chance(next(iter(named.values())), pool_rows),
        "shortlist": None if shortlist is None else _shortlist(named, *shortlist),
    }


def _shortlist(named: Mapping[str, np.ndarray], names: Sequence[str], rows: int) -> Shortlist:
    return {"names": list(names), "rows": rows, "chance": _chance(named[names[0]], rows)}


def _chance(chosen: np.ndarray, rows: int) -> float:
    """What two random choices of so many of the rows share."""
    size = np.unique(chosen).size
    return significant(size / max(2 * rows - size, 1))


def embedding_map(column: str, vectors: np.ndarray, chosen: np.ndarray, bins: int = 48) -> EmbeddingMap:
    """Lay vectors out on their two principal axes, and count those of the pool and those chosen on a grid.

    The axes are fitted on rows picked evenly from those that have a vector (at most 20,000, and 2,000 of vectors with
    more than 1,024 numbers), and are the same every time. The grid spans 99 % of the pool on either axis; its
    outermost cells hold what lies beyond too, so that the counts add up to all rows that have a vector. Vectors are
    read in blocks: a memory-mapped array is not loaded.

    Args:
        column: name of the vectors.
        vectors: float of shape (rows, numbers). Rows with a value that is not finite have no vector.
        chosen: row numbers, int of shape (chosen,).
        bins: cells of the grid on either axis.

    Raises:
        SelectionError: `vectors` of another shape, a chosen row that is not there, or no row with a vector.
        ConfigError: `bins` below 1.
    """
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or not vectors.shape[1]:
        raise SelectionError(
            f"A map of {column!r} needs numbers of shape (rows, numbers), and got {vectors.dtype} of shape "
            f"{vectors.shape}."
        )
    _check_rows("chosen", chosen, len(vectors))
    points, explained = principal_plane(vectors)
    there = ~np.isnan(points[:, 0])
    if not there.any():
        raise SelectionError(f"No row has a vector in {column!r}.")
    tails = np.percentile(points[there], [0.5, 99.5], axis=0)
    x, y = (edges_between((low, high), bins) for low, high in tails.T.tolist())
    points = np.clip(points, [x[0], y[0]], [x[-1], y[-1]])
    return {
        "column": column,
        "x": x.tolist(),
        "y": y.tolist(),
        "pool": _cells(points[there], x, y),
        "chosen": _cells(points[chosen][there[chosen]], x, y),
        "explained": significant(explained),
    }


def _summary(column: str, groups: list[tuple[str, np.ndarray]], edges: np.ndarray, log: bool) -> Distribution:
    spreads = [_spread(name, values, edges) for name, values in groups]
    return {"column": column, "edges": edges.tolist(), "log": log, "groups": spreads}


def _spread(name: str, values: np.ndarray, edges: np.ndarray) -> Spread:
    quantiles = np.percentile(values, [0, 25, 50, 75, 100])
    return {
        "name": name,
        "rows": int(values.size),
        "mean": significant(values.mean()),
        "quantiles": [significant(each) for each in quantiles.tolist()],
        "counts": np.histogram(values, edges)[0].tolist(),
    }


def _check_rows(name: str, rows: np.ndarray, pool_rows: int) -> None:
    if np.size(rows) and (np.min(rows) < 0 or np.max(rows) >= pool_rows):
        raise SelectionError(
            f"{name!r} has row numbers from {np.min(rows):,} to {np.max(rows):,}, but the pool has {pool_rows:,} rows."
        )


def _cells(points: np.ndarray, x: np.ndarray, y: np.ndarray) -> list[list[int]]:
    counts = np.histogram2d(points[:, 1], points[:, 0], [y, x])[0].astype(np.int64)
    cells: list[list[int]] = counts.tolist()
    return cells
