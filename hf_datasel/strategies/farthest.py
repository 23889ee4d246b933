"""Farthest-first choice of vectors: the strategy of k-Center and of DiverseEvol.

The row farthest from its nearest chosen row is chosen, then the next, and so on: `argmax over i of min over chosen j
of |x_i - x_j|`. Sources: Gonzalez 1985 (greedy k-center: within twice the best radius); DiverseEvol: Wu et al. 2023;
Xia et al. 2024, "Rethinking Data Selection at Scale" (arXiv:2410.09335), Eq. 8.

What decides is always `sum((x - y) ** 2)` in float64. A matrix product in float32 gives a lower bound of it, rounding
included, and only the pairs that the bound does not rule out are computed. So neither the size of a block nor the BLAS
decides which rows are chosen, and near copies and a large common offset do no harm.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import Interrupted, SelectionError
from hf_datasel.strategies._checks import blocks, check_budget, check_vectors

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_ROWS_AT_ONCE = 2048
_CENTRES_AT_ONCE = 1024
_POOL = (1024, 16384)  # fewest and most rows that are kept up to date at every choice
_POOL_SHARE = 64  # in between, one row in so many
_LARGEST = 1e150


def farthest_first(
    vectors: npt.ArrayLike,
    budget: SupportsIndex,
    start: npt.ArrayLike = (),
    once: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Ints:
    """Choose rows one at a time, each the farthest from all rows chosen before it.

    Args:
        vectors: Shape (n, d). Rows with a number that is not finite are never chosen.
        budget: Rows to choose, at most the rows with a finite vector that are not in `start`.
        start: Positions chosen before, which are not returned. Those without a finite vector are near to nothing.
            Without any, the first choice is the row farthest from the mean, whatever the order of the rows.
        once: Measure the distances to the rows of `start` only, and return the farthest: what Xia et al. do at scale
            (their section 4.3). Needs a start.
        progress: Called with the number of rows chosen, after each choice.

    Returns:
        int64 positions in order of choice, shape (budget,). Equal distances in the order of their positions; so
        exact copies of chosen rows come last, in the order of their positions.

    Raises:
        SelectionError: The budget is more than the rows that can be chosen, the vectors are not of shape (n, d),
            `start` has something that is no position, `once` comes without a start, or a number is above 1e150.
        Interrupted: Ctrl-C, with the rows chosen so far.

    >>> farthest_first([[0.0], [1.0], [5.0], [6.0], [2.5]], budget=3, start=[0])
    array([3, 4, 1])
    """
    values, usable = check_vectors("farthest_first", vectors)
    before = _positions("farthest_first", "start", start, len(values))
    free = usable.copy()
    free[before] = False
    total = len(values) - len(np.unique(before))
    budget = check_budget("farthest_first", budget, int(np.count_nonzero(free)), total, without="a finite vector")
    before = before[usable[before]]
    if once and not len(before):
        raise SelectionError("farthest_first: once=True measures distances to start, which has no finite vector.")
    chosen: list[int] = []
    try:
        if budget:
            rows = _Rows("farthest_first", values, usable)
            choices = _ranking(rows, free, before) if once else _choices(rows, free, before)
            for row in islice(choices, budget):
                chosen.append(row)
                if progress is not None:
                    progress(len(chosen))
    except KeyboardInterrupt:
        raise Interrupted(np.array(chosen, dtype=np.int64)) from None
    return np.array(chosen, dtype=np.int64)


def nearest_chosen(
    vectors: npt.ArrayLike, chosen: npt.ArrayLike, positions: npt.ArrayLike | None = None
) -> tuple[Ints, Floats]:
    """Find the chosen row that is nearest to each row, and how far it is.

    Args:
        vectors: Shape (n, d).
        chosen: Positions of the chosen rows. Those without a finite vector are nearest to nothing.
        positions: The rows to look at, shape (m,); all n when not given.

    Returns:
        The position of the nearest chosen row, int64, and the Euclidean distance to it, float64, both of shape (m,).
        Equal distances: the one that comes first in `chosen`. A row without a finite vector, or with nothing to be
        near to, has -1 and NaN. A chosen row is nearest to itself, or to a copy of it that was chosen before it.

    Raises:
        SelectionError: The vectors are not of shape (n, d), a number is above 1e150, or something is no position.

    >>> nearest_chosen([[0.0], [1.0], [5.0], [6.0]], chosen=[3, 0])
    (array([0, 0, 3, 3]), array([0., 1., 1., 0.]))
    """
    values, usable = check_vectors("nearest_chosen", vectors)
    centres = _positions("nearest_chosen", "chosen", chosen, len(values))
    centres = centres[usable[centres]]
    every = np.arange(len(values))
    asked = every if positions is None else _positions("nearest_chosen", "positions", positions, len(values))
    nearest, distance = np.full(len(asked), -1, dtype=np.int64), np.full(len(asked), np.nan)
    found = np.flatnonzero(usable[asked])
    if len(found) and len(centres):
        rows = _Rows("nearest_chosen", values, usable)
        which, squares = rows.lower(asked[found], centres, np.full(len(found), np.inf))
        nearest[found], distance[found] = centres[which], np.sqrt(squares)
    return nearest, distance


class _Rows:
    """Vectors, and what is needed to bound the distance of two of them from below by a product in float32."""

    def __init__(self, who: str, vectors: npt.NDArray[np.floating], usable: npt.NDArray[np.bool_]):
        largest = max(float(np.abs(vectors[b][usable[b]]).max(initial=0)) for b in blocks(*vectors.shape))
        if largest > _LARGEST:
            raise SelectionError(f"{who}: numbers up to {largest:.0e} are too large to be squared. Scale the vectors.")
        self.vectors = vectors
        self.mean = np.mean(vectors, axis=0, dtype=np.float64, where=True if usable.all() else usable[:, None])
        # Squares have to fit into float32. A power of two costs no digits.
        scale = 2.0 ** -float(np.clip(np.frexp(largest)[1], -500, 500))
        self.square_scale = scale * scale
        # Around the mean: an offset that all vectors share would cost the product its digits.
        self.centred = np.zeros(vectors.shape, dtype=np.float32)
        norms = np.zeros(len(vectors))
        for block in blocks(*vectors.shape):
            around = (vectors[block] - self.mean) * scale
            around[~usable[block]] = 0
            self.centred[block] = around
            norms[block] = (around * around).sum(axis=1)
        # With u = 2^-24, a product of d terms is off by at most d u |x| |y| in whatever order they are added, and
        # 2 |x| |y| <= |x|^2 + |y|^2. All other roundings are off by less than 32 u (|x|^2 + |y|^2) together. The last
        # term stands for products too small for float32.
        width = vectors.shape[1]
        self.low = norms * (1 - 1.01 * (width + 32) * 2.0**-24) - (width + 1) * 2.0**-124

    def squares(self, rows: Ints, others: Ints) -> Floats:
        """Squared distances of pairs of rows, by the one expression that decides."""
        result = np.empty(len(rows))
        for block in blocks(len(rows), self.vectors.shape[1]):
            difference = self.vectors[rows[block]].astype(np.float64) - self.vectors[others[block]]
            result[block] = (difference * difference).sum(axis=1)
        return result

    def lower(self, rows: Ints, centres: Ints, squares: Floats) -> tuple[Ints, Floats]:
        """Lower squared distances to those to the centres: (index of the nearest centre or -1, squared distances)."""
        which, squares = np.full(len(rows), -1, dtype=np.int64), squares.copy()
        for begin in range(0, len(centres), _CENTRES_AT_ONCE):
            some = centres[begin : begin + _CENTRES_AT_ONCE]
            times, low = -2 * self.centred[some], self.low[some].astype(np.float32)[:, None]
            for at in range(0, len(rows), _ROWS_AT_ONCE):
                block = slice(at, at + _ROWS_AT_ONCE)
                bounds = times @ self.centred[rows[block]].T
                bounds += low
                self._settle(bounds, rows[block], some, begin, which[block], squares[block])
        return which, squares

    def _settle(
        self, bounds: npt.NDArray[np.float32], rows: Ints, centres: Ints, begin: int, which: Ints, squares: Floats
    ) -> None:
        """Compute the pairs that their bound, shape (centres, rows), does not rule out, the most likely ones first."""
        column = np.arange(len(rows))
        while True:
            possible = bounds.min(axis=0) + self.low[rows[column]] <= squares[column] * self.square_scale
            if not possible.any():
                return
            bounds, column = bounds[:, possible], column[possible]
            first = bounds.argmin(axis=0)
            bounds[first, np.arange(len(column))] = np.inf
            found, old = self.squares(rows[column], centres[first]), squares[column]
            # Centres come in blocks in their order, so that within a block alone a tie can go to an earlier one.
            nearer = (found < old) | ((found == old) & (begin + first < which[column]))
            squares[column[nearer]] = found[nearer]
            which[column[nearer]] = begin + first[nearer]


def _ranking(rows: _Rows, free: npt.NDArray[np.bool_], centres: Ints) -> Iterator[int]:
    """Give the rows by descending distance to the nearest centre."""
    candidates = np.flatnonzero(free)
    squares = rows.lower(candidates, centres, np.full(len(candidates), np.inf))[1]
    yield from candidates[np.argsort(-squares, kind="stable")].tolist()


def _choices(rows: _Rows, free: npt.NDArray[np.bool_], centres: Ints) -> Iterator[int]:
    """Give the farthest row, the farthest from it and the centres, and so on."""
    if not len(centres):
        from_mean = np.full(len(free), -np.inf)
        for block in blocks(*rows.vectors.shape):
            difference = rows.vectors[block][free[block]] - rows.mean
            from_mean[block][free[block]] = (difference * difference).sum(axis=1)
        first = int(from_mean.argmax())
        yield first
        free = free.copy()
        free[first] = False
        centres = np.array([first])
    search = _Search(rows, free, centres)
    while True:
        yield search.take()


class _Search:
    """Take the farthest row, again and again.

    A distance to the nearest chosen row only ever falls, so one from an earlier step is an upper bound. A pool of the
    rows with the highest bounds is kept up to date at every choice. The others wait until the best of the pool falls
    to the highest bound outside it; then those with the highest bounds are brought up to date, by products with many
    centres at once, until a new pool is known.
    """

    def __init__(self, rows: _Rows, free: npt.NDArray[np.bool_], centres: Ints):
        candidates = np.flatnonzero(free)
        self.rows = rows
        self.size = int(np.clip(len(candidates) // _POOL_SHARE, *_POOL))
        # Upper bounds, -inf for rows that cannot be taken or are in the pool, and how many centres they take in.
        self.squares = np.full(len(free), -np.inf)
        self.squares[candidates] = rows.lower(candidates, centres, np.full(len(candidates), np.inf))[1]
        self.seen = np.full(len(free), len(centres))
        self.centres = np.concatenate([centres, np.empty(len(candidates), dtype=np.int64)])
        self.count = len(centres)
        self.pool, self.pool_squares = np.empty(0, dtype=np.int64), np.empty(0)
        self._refill()

    def take(self) -> int:
        """Take the row that is farthest from all taken before."""
        while True:
            at = int(self.pool_squares.argmax())
            row, square = int(self.pool[at]), self.pool_squares[at]
            if square > self.outside or (square == self.outside and row < self.outside_row):
                break
            self._refill()
        self.pool_squares[at] = -np.inf
        self.centres[self.count] = row
        self.count += 1
        bounds = self.pool_centred @ (-2 * self.rows.centred[row]) + self.rows.low[row] + self.pool_low
        near = np.flatnonzero(bounds <= self.pool_squares * self.rows.square_scale)
        if len(near):
            found = self.rows.squares(self.pool[near], np.broadcast_to(row, len(near)))
            self.pool_squares[near] = np.minimum(self.pool_squares[near], found)
        return row

    def _refill(self) -> None:
        self.squares[self.pool] = self.pool_squares
        self.seen[self.pool] = self.count
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
        self.outside = self.squares[self.outside_row]

    def _is_stale(self, rows: Ints) -> npt.NDArray[np.bool_]:
        return (self.seen[rows] < self.count) & (self.squares[rows] > 0)

    def _update(self, rows: Ints) -> None:
        rows = rows[np.argsort(self.seen[rows], kind="stable")]
        for at in range(0, len(rows), _ROWS_AT_ONCE):
            block = rows[at : at + _ROWS_AT_ONCE]
            unseen = self.centres[self.seen[block[0]] : self.count]
            self.squares[block] = self.rows.lower(block, unseen, self.squares[block])[1]
        self.seen[rows] = self.count


def _highest(values: Floats, size: int) -> Ints:
    """Positions, ascending, of so many highest values above -inf; of equal ones those at the lower positions."""
    if size >= len(values):
        return np.flatnonzero(values > -np.inf)
    level = np.partition(values, len(values) - size)[len(values) - size]
    above = np.flatnonzero(values > level)
    if level == -np.inf:
        return above
    return np.sort(np.concatenate([above, np.flatnonzero(values == level)[: size - len(above)]]))


def _positions(who: str, name: str, positions: npt.ArrayLike, total: int) -> Ints:
    """Return positions as int64, shape (m,), or say which of them is none."""
    values = np.asarray(positions)
    if not values.size:
        return np.empty(0, dtype=np.int64)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise SelectionError(
            f"{who}: {name} must be whole numbers of shape (m,), but is {values.dtype} of shape {values.shape}."
        )
    wrong = values[(values < 0) | (values >= total)]
    if len(wrong):
        raise SelectionError(f"{who}: {name} has {wrong[0]}, but the {total:,} rows are 0 to {total - 1:,}.")
    return values.astype(np.int64)
