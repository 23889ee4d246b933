"""Bins by graph-cut gain, and an equal draw from each: the strategy of DQ, dataset quantization.

Source: Zhou et al. 2023, "Dataset Quantization" (arXiv:2308.10524). With s the cosine and V the rows in no earlier
bin, a bin is built row by row from the highest `sum over v in V of s(v, i) - 2 x sum over the bin so far of s(c, i)`.
(The published code takes `(1 + cosine) / 2` for images, which gives the same bins, and the product of the stored
vectors for Alpaca, which does where all of them have the same length.)

Sums of cosines are one product: with x of length 1 the gain is `x_i . w` for the running vector `w = sum of V - 2 x
sum of the bin`. No matrix of rows by rows is needed.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import Interrupted, SelectionError
from hf_datasel.strategies._checks import blocks, check_budget, check_vectors

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_POOL = (512, 4096)  # fewest and most rows whose gain is computed at every choice
_POOL_SHARE = 16  # in between, one row in so many
_TIE = 1e-12  # of the rows: well above what sums of so many cosines are off by


def graph_cut_bins(
    vectors: npt.ArrayLike, n_bins: SupportsIndex, progress: Callable[[int], object] | None = None
) -> list[Ints]:
    """Put every row into one of the bins, by graph-cut gain over the rows left.

    Args:
        vectors: Shape (n, d). Rows with a number that is not finite are in no bin. A zero vector has similarity 0 to
            every row.
        n_bins: Bins, from 1 to the rows with a finite vector.
        progress: Called with the number of rows put into bins, after each row.

    Returns:
        For each bin int64 positions in order of choice: rows // n_bins a bin, and the last bin has what is left over
        besides (the published code drops it). Gains that differ by less than 1e-12 x rows, which is rounding, count
        as equal: the lower position comes first.

    Raises:
        SelectionError: The number of bins is none that can be, or the vectors are not of shape (n, d).
        Interrupted: Ctrl-C, with the rows put into bins so far, bin after bin.

    >>> graph_cut_bins([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.0, 1.0]], n_bins=2)
    [array([2, 1]), array([0, 3])]
    """
    values, usable = check_vectors("graph_cut_bins", vectors)
    rows = np.flatnonzero(usable)
    count = _checked_bins(n_bins, len(rows))
    chosen: list[int] = []
    try:
        for row in _choices(_Units(values, rows), count):
            chosen.append(row)
            if progress is not None:
                progress(len(chosen))
    except KeyboardInterrupt:
        raise Interrupted(np.array(chosen, dtype=np.int64)) from None
    return np.split(np.array(chosen, dtype=np.int64), len(rows) // count * np.arange(1, count))


def sample_bins(bins: Sequence[npt.ArrayLike], budget: SupportsIndex, rng: np.random.Generator) -> Ints:
    """Draw equally many rows from each bin, uniformly and without replacement.

    Args:
        bins: Positions, shape (m,) each, such as `graph_cut_bins` gives.
        budget: Rows to draw, at most those in all bins.
        rng: Where chance comes from.

    Returns:
        int64 positions, shape (budget,), one from each bin in turn: any first part is an equal draw too, the one that
        a smaller budget would give. What does not divide goes to the first bins, and what a used-up bin cannot give
        to the others.

    Raises:
        SelectionError: The budget is more than the rows in the bins.

    >>> sample_bins([[0, 1, 2], [3], [4, 5, 6]], budget=5, rng=np.random.default_rng(0))
    array([2, 3, 6, 0, 5])
    """
    drawn = [rng.permutation(np.asarray(each, dtype=np.int64)) for each in bins]
    total = sum(map(len, drawn))
    budget = check_budget("sample_bins", budget, total, total, without="a bin")
    if not budget:
        return np.empty(0, dtype=np.int64)
    turn = np.concatenate([np.arange(len(each)) for each in drawn])
    return np.concatenate(drawn)[np.argsort(turn, kind="stable")[:budget]]


def _checked_bins(n_bins: SupportsIndex, rows: int) -> int:
    try:
        count = operator.index(n_bins)
    except TypeError:
        count = 0
    if count < 1 or isinstance(n_bins, bool):
        raise SelectionError(f"graph_cut_bins: n_bins={n_bins!r} must be a whole number, 1 or more.")
    if count > rows:
        raise SelectionError(f"graph_cut_bins: n_bins={count} is more than the {rows:,} rows with a finite vector.")
    return count


class _Units:
    """Vectors of length 1: exact ones on demand, and a float32 copy for a first look at all of them."""

    def __init__(self, vectors: npt.NDArray[np.floating], rows: Ints):
        self.vectors, self.rows = vectors, rows
        self.rounded = np.empty((len(rows), vectors.shape[1]), dtype=np.float32)
        self.total = np.zeros(vectors.shape[1])
        for block in blocks(*self.rounded.shape):
            units = self.exact(np.arange(len(rows))[block])
            self.rounded[block] = units
            self.total += units.sum(axis=0)
        # x . w is off by at most so much of |w|: d roundings of the product, one each of x and w, and a few to spare.
        self.error = 1.01 * (vectors.shape[1] + 8) * 2.0**-24

    def exact(self, places: Ints) -> Floats:
        """Unit vectors in float64 of the rows at places among the rows with a vector; zero stays zero."""
        units = self.vectors[self.rows[places]].astype(np.float64)
        # By the largest number first: the square of a very large or very small one is not a number any more.
        largest = np.abs(units).max(axis=1, initial=0, keepdims=True)
        units /= np.where(largest > 0, largest, 1)
        norms = np.sqrt((units * units).sum(axis=1, keepdims=True))
        return units / np.where(norms > 0, norms, 1)


def _choices(units: _Units, n_bins: int) -> Iterator[int]:
    """Give the rows bin after bin, in order of choice."""
    n = len(units.rows)
    search = _Search(units)
    size = n // n_bins
    for number in range(n_bins):
        search.begin_bin()
        for _ in range(size if number < n_bins - 1 else n - size * (n_bins - 1)):
            yield int(units.rows[search.take()])


class _Search:
    """Take the row with the highest gain, again and again.

    When the running vector w has moved by m, no gain has risen by more than |m|. So the row to take is in a pool of
    the highest gains, computed anew at every choice, for as long as its best is more than |m| above the highest gain
    outside the pool when all were last computed.
    """

    def __init__(self, units: _Units):
        self.units = units
        self.tie = _TIE * len(units.rows)
        self.size = int(np.clip(len(units.rows) // _POOL_SHARE, *_POOL))
        self.places, self.rounded = np.arange(len(units.rows)), units.rounded
        self.left = np.ones(len(units.rows), dtype=bool)
        self.total = units.total  # over the rows in no bin

    def begin_bin(self) -> None:
        """Begin a bin: w is the sum over the rows left."""
        if np.count_nonzero(self.left) < len(self.left) / 2:
            self.places, self.rounded = self.places[self.left], self.rounded[self.left]
            self.left = np.ones(len(self.places), dtype=bool)
        self.w = self.total.copy()
        self._refill()

    def take(self) -> int:
        """Take the row with the highest gain, of those that tie the first: its place among all."""
        gains = self.pool_units @ self.w + self.pool_taken
        moved = np.sqrt(((self.w - self.w_known) ** 2).sum())
        if not gains.max() - 2 * self.tie > self.outside + moved:
            self._refill()
            gains = self.pool_units @ self.w
        close = np.flatnonzero(gains >= gains.max() - 2 * self.tie)
        if len(close) > 1:
            # How BLAS rounds depends on how many rows there are; this does not.
            gains = (self.pool_units[close] * self.w).sum(axis=1)
            close = close[gains >= gains.max() - self.tie]
        at = int(close[0])
        self.pool_taken[at] = -np.inf
        self.left[self.pool[at]] = False
        self.w -= 2 * self.pool_units[at]
        self.total -= self.pool_units[at]
        return int(self.places[self.pool[at]])

    def _refill(self) -> None:
        """Compute all gains, and keep the rows that are among the highest or may tie with the highest."""
        gains = self.rounded @ self.w.astype(np.float32)
        gains[~self.left] = -np.inf
        error = self.units.error * np.sqrt((self.w**2).sum())
        level = gains.max() - 2 * (self.tie + error)
        if len(gains) > self.size:
            level = min(level, np.partition(gains, len(gains) - self.size)[len(gains) - self.size])
        else:
            level = -np.inf
        inside = self.left & (gains >= level)
        self.pool = np.flatnonzero(inside)
        self.pool_units = self.units.exact(self.places[self.pool])
        self.pool_taken = np.zeros(len(self.pool))
        self.outside = float(gains[~inside].max(initial=-np.inf)) + error
        self.w_known = self.w.copy()
