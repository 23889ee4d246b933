"""Farthest-first traversal of vectors: the strategy of k-Center and DiverseEvol.

Each step selects the row that is farthest from its nearest selected row: `argmax over i of min over selected j of
|x_i - x_j|`. Sources: Gonzalez 1985 (greedy k-center: within twice the best radius); DiverseEvol: Wu et al. 2023;
Xia et al. 2024, "Rethinking Data Selection at Scale" (arXiv:2410.09335), Eq. 8.

Distances are always compared as `sum((x - y) ** 2)` in float64. A matrix product in float32 gives a lower bound that
accounts for rounding, and only pairs that the bound does not exclude are computed in float64. The selection therefore
depends neither on the block size nor on the BLAS, and is exact with near-duplicates and with a large common offset.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import Interrupted, SelectionError
from hf_datasel.strategies._checks import blocks, check_budget, check_memory, check_vectors

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_ROWS_PER_BLOCK = 2048
_CENTRES_PER_BLOCK = 1024
_POOL_SIZES = (1024, 16384)  # fewest and most rows whose distances are updated at every step
_POOL_SHARE = 64  # between these, one in 64 rows
_LARGEST_NUMBER = 1e150


def farthest_first(
    vectors: npt.ArrayLike,
    budget: SupportsIndex,
    start: npt.ArrayLike = (),
    once: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Ints:
    """Select rows one at a time, each the farthest from all rows selected before it.

    Args:
        vectors: Shape (n, d). Rows with a number that is not finite are never selected.
        budget: Number of rows to select, at most the rows with a finite vector that are not in `start`.
        start: Positions of rows selected earlier, which are not returned. Those without a finite vector are ignored.
            Without any, the first selected row is the one farthest from the mean, independent of the row order.
        once: Whether to measure distances to the rows of `start` only and return the farthest rows, as Xia et al. do
            on large datasets (their section 4.3). Requires `start`.
        progress: Called after each selected row with the number of rows selected so far.

    Returns:
        int64 positions in order of selection, shape (budget,). Equal distances are in the order of their positions;
        exact copies of selected rows therefore come last, in the order of their positions.

    Raises:
        SelectionError: The budget is more than the rows that can be selected; the vectors are not of shape (n, d);
            `start` contains an invalid position; `once` is used without `start`; a number is above 1e150; or the
            vectors do not fit into memory.
        Interrupted: On Ctrl-C, with the positions selected so far.

    >>> farthest_first([[0.0], [1.0], [5.0], [6.0], [2.5]], budget=3, start=[0])
    array([3, 4, 1])
    """
    values, finite = check_vectors("farthest_first", vectors)
    start_rows = _positions("farthest_first", "start", start, len(values))
    selectable = finite.copy()
    selectable[start_rows] = False
    total = len(values) - len(np.unique(start_rows))
    budget = check_budget(
        "farthest_first", budget, int(np.count_nonzero(selectable)), total, without="a finite vector"
    )
    start_rows = start_rows[finite[start_rows]]
    if once and not len(start_rows):
        raise SelectionError("farthest_first: once=True measures distances to start, which has no finite vector.")
    selected: list[int] = []
    try:
        if budget:
            rows = _Rows("farthest_first", values, finite)
            ordered = (_rows_by_distance if once else _farthest_rows)(rows, selectable, start_rows)
            for row in islice(ordered, budget):
                selected.append(row)
                if progress is not None:
                    progress(len(selected))
    except KeyboardInterrupt:
        raise Interrupted(np.array(selected, dtype=np.int64)) from None
    return np.array(selected, dtype=np.int64)


def nearest_selected(
    vectors: npt.ArrayLike, selected: npt.ArrayLike, positions: npt.ArrayLike | None = None
) -> tuple[Ints, Floats]:
    """Return the nearest selected row of each row, and the distance to it.

    Args:
        vectors: Shape (n, d).
        selected: Positions of the selected rows. Those without a finite vector are ignored.
        positions: Positions of the rows to look up, shape (m,); all n rows by default.

    Returns:
        Position of the nearest selected row, int64 of shape (m,), and the Euclidean distance to it, float64 of shape
        (m,). Of equal distances, the first in `selected` is returned. -1 and NaN for a row without a finite vector,
        or if no selected row has one. A selected row is nearest to itself, or to a copy that was selected earlier.

    Raises:
        SelectionError: The vectors are not of shape (n, d), a number is above 1e150, or a position is invalid.

    >>> nearest_selected([[0.0], [1.0], [5.0], [6.0]], selected=[3, 0])
    (array([0, 0, 3, 3]), array([0., 1., 1., 0.]))
    """
    values, finite = check_vectors("nearest_selected", vectors)
    centres = _positions("nearest_selected", "selected", selected, len(values))
    centres = centres[finite[centres]]
    all_rows = np.arange(len(values))
    queried = all_rows if positions is None else _positions("nearest_selected", "positions", positions, len(values))
    nearest, distance = np.full(len(queried), -1, dtype=np.int64), np.full(len(queried), np.nan)
    indices = np.flatnonzero(finite[queried])
    if len(indices) and len(centres):
        rows = _Rows("nearest_selected", values, finite)
        nearest_centre, squares = rows.lower(queried[indices], centres, np.full(len(indices), np.inf))
        nearest[indices], distance[indices] = centres[nearest_centre], np.sqrt(squares)
    return nearest, distance


class _Rows:
    """Vectors with the terms of a lower bound of their distances, computed by a matrix product in float32.

    Args:
        function: Name of the strategy, for the error message.
        vectors: Shape (n, d).
        finite: Mask of the vectors with only finite numbers, shape (n,).
    """

    def __init__(self, function: str, vectors: npt.NDArray[np.floating], finite: npt.NDArray[np.bool_]):
        check_memory(function, len(vectors), vectors.shape[1], 4)
        largest = max(float(np.abs(vectors[b][finite[b]]).max(initial=0)) for b in blocks(*vectors.shape))
        if largest > _LARGEST_NUMBER:
            raise SelectionError(
                f"{function}: numbers up to {largest:.0e} are too large to be squared. Scale the vectors."
            )
        self.vectors = vectors
        self.mean = np.mean(vectors, axis=0, dtype=np.float64, where=True if finite.all() else finite[:, None])
        # Squares have to fit into float32. Scaling by a power of two is exact.
        scale = 2.0 ** -float(np.clip(np.frexp(largest)[1], -500, 500))
        self.square_scale = scale * scale
        # Centred, because a common offset would cost the product precision.
        self.centred = np.zeros(vectors.shape, dtype=np.float32)
        norms = np.zeros(len(vectors))
        for block in blocks(*vectors.shape):
            around = (vectors[block] - self.mean) * scale
            around[~finite[block]] = 0
            self.centred[block] = around
            norms[block] = (around * around).sum(axis=1)
        # With u = 2^-24, the error of a product of d terms is at most d u |x| |y| in any order of summation, and
        # 2 |x| |y| <= |x|^2 + |y|^2. All other rounding errors together are below 32 u (|x|^2 + |y|^2). The last
        # term covers products that underflow in float32.
        width = vectors.shape[1]
        self.low = norms * (1 - 1.01 * (width + 32) * 2.0**-24) - (width + 1) * 2.0**-124

    def squares(self, rows: Ints, others: Ints) -> Floats:
        """Return the squared distances of pairs of rows in float64, which all comparisons use."""
        result = np.empty(len(rows))
        for block in blocks(len(rows), self.vectors.shape[1]):
            difference = self.vectors[rows[block]].astype(np.float64) - self.vectors[others[block]]
            result[block] = (difference * difference).sum(axis=1)
        return result

    def lower(self, rows: Ints, centres: Ints, squares: Floats) -> tuple[Ints, Floats]:
        """Lower squared distances to those to the nearest of some centres.

        Args:
            rows: Positions of the rows, shape (m,).
            centres: Positions of the centres, shape (c,).
            squares: Squared distances so far, shape (m,).

        Returns:
            Index of the nearest centre, or -1 if no centre is nearer than before, and the squared distances.
        """
        nearest_centre, squares = np.full(len(rows), -1, dtype=np.int64), squares.copy()
        for begin in range(0, len(centres), _CENTRES_PER_BLOCK):
            centre_block = centres[begin : begin + _CENTRES_PER_BLOCK]
            factor, low = -2 * self.centred[centre_block], self.low[centre_block].astype(np.float32)[:, None]
            for offset in range(0, len(rows), _ROWS_PER_BLOCK):
                block = slice(offset, offset + _ROWS_PER_BLOCK)
                bounds = factor @ self.centred[rows[block]].T
                bounds += low
                self._compute_possible(bounds, rows[block], centre_block, begin, nearest_centre[block], squares[block])
        return nearest_centre, squares

    def _compute_possible(
        self,
        bounds: npt.NDArray[np.float32],
        rows: Ints,
        centres: Ints,
        begin: int,
        nearest_centre: Ints,
        squares: Floats,
    ) -> None:
        """Compute the pairs that `bounds`, shape (centres, rows), do not exclude, lowest bounds first, in place."""
        column = np.arange(len(rows))
        while True:
            possible = bounds.min(axis=0) + self.low[rows[column]] <= squares[column] * self.square_scale
            if not possible.any():
                return
            bounds, column = bounds[:, possible], column[possible]
            first = bounds.argmin(axis=0)
            bounds[first, np.arange(len(column))] = np.inf
            new, old = self.squares(rows[column], centres[first]), squares[column]
            # Blocks of centres are in order, so that only within a block a tie can go to an earlier centre.
            nearer = (new < old) | ((new == old) & (begin + first < nearest_centre[column]))
            squares[column[nearer]] = new[nearer]
            nearest_centre[column[nearer]] = begin + first[nearer]


def _rows_by_distance(rows: _Rows, selectable: npt.NDArray[np.bool_], centres: Ints) -> Iterator[int]:
    """Yield the rows by descending distance to the nearest centre."""
    candidates = np.flatnonzero(selectable)
    squares = rows.lower(candidates, centres, np.full(len(candidates), np.inf))[1]
    yield from candidates[np.argsort(-squares, kind="stable")].tolist()


def _farthest_rows(rows: _Rows, selectable: npt.NDArray[np.bool_], centres: Ints) -> Iterator[int]:
    """Yield rows in farthest-first order, starting from the centres."""
    if not len(centres):
        from_mean = np.full(len(selectable), -np.inf)
        for block in blocks(*rows.vectors.shape):
            difference = rows.vectors[block][selectable[block]] - rows.mean
            from_mean[block][selectable[block]] = (difference * difference).sum(axis=1)
        first_row = int(from_mean.argmax())
        yield first_row
        selectable = selectable.copy()
        selectable[first_row] = False
        centres = np.array([first_row])
    search = _Search(rows, selectable, centres)
    while True:
        yield search.pop()


class _Search:
    """Lazy search for the farthest row.

    The distance to the nearest selected row never increases, so a distance from an earlier step is an upper bound. A
    pool of the rows with the highest bounds is updated at every step. Once the highest distance in the pool falls to
    the highest bound outside it, the rows with the highest bounds are updated, by products with many centres, until
    a new pool is determined.

    Args:
        rows: All vectors.
        selectable: Mask of the rows that can be selected, shape (n,).
        centres: Positions of the rows selected earlier, at least one.
    """

    def __init__(self, rows: _Rows, selectable: npt.NDArray[np.bool_], centres: Ints):
        candidates = np.flatnonzero(selectable)
        self.rows = rows
        self.size = int(np.clip(len(candidates) // _POOL_SHARE, *_POOL_SIZES))
        # Upper bounds, -inf for rows that cannot be selected or are in the pool, and the centres they account for.
        self.squares = np.full(len(selectable), -np.inf)
        self.squares[candidates] = rows.lower(candidates, centres, np.full(len(candidates), np.inf))[1]
        self.centres_seen = np.full(len(selectable), len(centres))
        self.centres = np.concatenate([centres, np.empty(len(candidates), dtype=np.int64)])
        self.count = len(centres)
        self.pool, self.pool_squares = np.empty(0, dtype=np.int64), np.empty(0)
        self._refill()

    def pop(self) -> int:
        """Select and return the row that is farthest from all selected rows."""
        while True:
            index = int(self.pool_squares.argmax())
            row, square = int(self.pool[index]), self.pool_squares[index]
            if square > self.highest_outside or (square == self.highest_outside and row < self.outside_row):
                break
            self._refill()
        self.pool_squares[index] = -np.inf
        self.centres[self.count] = row
        self.count += 1
        bounds = self.pool_centred @ (-2 * self.rows.centred[row]) + self.rows.low[row] + self.pool_low
        near = np.flatnonzero(bounds <= self.pool_squares * self.rows.square_scale)
        if len(near):
            squares = self.rows.squares(self.pool[near], np.broadcast_to(row, len(near)))
            self.pool_squares[near] = np.minimum(self.pool_squares[near], squares)
        return row

    def _refill(self) -> None:
        self.squares[self.pool] = self.pool_squares
        self.centres_seen[self.pool] = self.count
        size = self.size
        while True:
            self.pool = _highest(self.squares, self.size)
            if not self._is_stale(self.pool).any():
                break
            size *= 4
            wider = _highest(self.squares, size)
            self._update(wider[self._is_stale(wider)])
        self.pool_squares = self.squares[self.pool]
        self.pool_centred, self.pool_low = self.rows.centred[self.pool], self.rows.low[self.pool]
        self.squares[self.pool] = -np.inf
        self.outside_row = int(self.squares.argmax())
        self.highest_outside = self.squares[self.outside_row]

    def _is_stale(self, rows: Ints) -> npt.NDArray[np.bool_]:
        return (self.centres_seen[rows] < self.count) & (self.squares[rows] > 0)

    def _update(self, rows: Ints) -> None:
        rows = rows[np.argsort(self.centres_seen[rows], kind="stable")]
        for offset in range(0, len(rows), _ROWS_PER_BLOCK):
            block = rows[offset : offset + _ROWS_PER_BLOCK]
            unseen = self.centres[self.centres_seen[block[0]] : self.count]
            self.squares[block] = self.rows.lower(block, unseen, self.squares[block])[1]
        self.centres_seen[rows] = self.count


def _highest(values: Floats, size: int) -> Ints:
    """Return the ascending positions of the `size` highest values above -inf; of equal ones the lower positions."""
    if size >= len(values):
        return np.flatnonzero(values > -np.inf)
    level = np.partition(values, len(values) - size)[len(values) - size]
    above = np.flatnonzero(values > level)
    if level == -np.inf:
        return above
    return np.sort(np.concatenate([above, np.flatnonzero(values == level)[: size - len(above)]]))


def _positions(function: str, name: str, positions: npt.ArrayLike, total: int) -> Ints:
    """Return positions as int64, shape (m,), or raise an error that names the invalid one."""
    values = np.asarray(positions)
    if not values.size:
        return np.empty(0, dtype=np.int64)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise SelectionError(
            f"{function}: {name} must be whole numbers of shape (m,), but is {values.dtype} of shape {values.shape}."
        )
    wrong = values[(values < 0) | (values >= total)]
    if len(wrong):
        raise SelectionError(f"{function}: {name} has {wrong[0]}, but the {total:,} rows are 0 to {total - 1:,}.")
    return values.astype(np.int64)
