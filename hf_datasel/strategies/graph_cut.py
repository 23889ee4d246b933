"""Bins by graph-cut gain and equal samples from each bin: the strategy of DQ, dataset quantization.

Source: Zhou et al. 2023, "Dataset Quantization" (arXiv:2308.10524). With s the cosine and V the rows in no earlier
bin, a bin is built one row at a time by the highest gain `sum over v in V of s(v, i) - 2 x sum over the bin so far of
s(c, i)`. (The published code uses `(1 + cosine) / 2` for images, which gives the same bins, and the dot product of the
stored vectors for Alpaca, which gives the same bins if all vectors have the same length.)

Sums of cosines are computed as one product: with vectors x of length 1, the gain is `x_i . w` for the running vector
`w = sum of V - 2 x sum of the bin`. No n x n matrix is needed.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import Interrupted, SelectionError
from hf_datasel.strategies._checks import blocks, check_budget, check_memory, check_vectors

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_POOL_SIZES = (512, 4096)  # fewest and most rows whose gain is computed at every step
_POOL_SHARE = 16  # between these, one in 16 rows
_TIE = 1e-12  # per row: well above the rounding error of a sum of cosines


def graph_cut_bins(
    vectors: npt.ArrayLike, n_bins: SupportsIndex, progress: Callable[[int], object] | None = None
) -> list[Ints]:
    """Assign every row to a bin by its graph-cut gain over the remaining rows.

    Args:
        vectors: Shape (n, d). Rows with a number that is not finite are in no bin. A zero vector has similarity 0 to
            every row.
        n_bins: Number of bins, from 1 to the number of rows with a finite vector.
        progress: Called after each row with the number of rows assigned so far.

    Returns:
        int64 positions of each bin in order of selection. Each bin has rows // n_bins rows, and the last bin also has
        the remainder (which the published code drops). Gains that differ by less than 1e-12 x rows, which is rounding
        error, count as equal and are in the order of their positions.

    Raises:
        SelectionError: `n_bins` is out of range, or the vectors are not of shape (n, d) or do not fit into memory.
        Interrupted: On Ctrl-C, with the positions assigned so far, bin after bin.

    >>> graph_cut_bins([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.0, 1.0]], n_bins=2)
    [array([2, 1]), array([0, 3])]
    """
    values, finite = check_vectors("graph_cut_bins", vectors)
    rows = np.flatnonzero(finite)
    count = _checked_bins(n_bins, len(rows))
    check_memory("graph_cut_bins", len(rows), values.shape[1], 4)
    selected: list[int] = []
    try:
        for row in _rows_by_bin(_UnitVectors(values, rows), count):
            selected.append(row)
            if progress is not None:
                progress(len(selected))
    except KeyboardInterrupt:
        raise Interrupted(np.array(selected, dtype=np.int64)) from None
    return np.split(np.array(selected, dtype=np.int64), len(rows) // count * np.arange(1, count))


def sample_bins(bins: Sequence[npt.ArrayLike], budget: SupportsIndex, rng: np.random.Generator) -> Ints:
    """Sample equally many rows from each bin, uniformly and without replacement.

    Args:
        bins: Positions of each bin, shape (m,), such as `graph_cut_bins` returns.
        budget: Number of rows to sample, at most the rows in all bins.
        rng: Random generator.

    Returns:
        int64 positions, shape (budget,), one from each bin in turn, so that every prefix is the sample of a smaller
        budget. A remainder goes to the first bins, and the share of an exhausted bin to the other bins.

    Raises:
        SelectionError: The budget is more than the rows in the bins.

    >>> sample_bins([[0, 1, 2], [3], [4, 5, 6]], budget=5, rng=np.random.default_rng(0))
    array([2, 3, 6, 0, 5])
    """
    shuffled = [rng.permutation(np.asarray(positions, dtype=np.int64)) for positions in bins]
    total = sum(map(len, shuffled))
    budget = check_budget("sample_bins", budget, total, total, without="a bin")
    if not budget:
        return np.empty(0, dtype=np.int64)
    rank = np.concatenate([np.arange(len(positions)) for positions in shuffled])
    return np.concatenate(shuffled)[np.argsort(rank, kind="stable")[:budget]]


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


class _UnitVectors:
    """Vectors scaled to length 1: float64 on demand, and a float32 copy of all of them for approximate gains.

    Args:
        vectors: Shape (n, d).
        rows: Positions of the vectors to scale.
    """

    def __init__(self, vectors: npt.NDArray[np.floating], rows: Ints):
        self.vectors, self.rows = vectors, rows
        self.rounded = np.empty((len(rows), vectors.shape[1]), dtype=np.float32)
        self.total = np.zeros(vectors.shape[1])
        for block in blocks(*self.rounded.shape):
            units = self.exact(np.arange(len(rows))[block])
            self.rounded[block] = units
            self.total += units.sum(axis=0)
        # Bound of the error of x . w, relative to |w|: d roundings of the product, one each of x and w, and a margin.
        self.error = 1.01 * (vectors.shape[1] + 8) * 2.0**-24

    def exact(self, indices: Ints) -> Floats:
        """Return unit vectors in float64 of `rows[indices]`; zero vectors stay zero."""
        units = self.vectors[self.rows[indices]].astype(np.float64)
        # Divided by the largest number first, because squares of very large or small numbers overflow or underflow.
        largest = np.abs(units).max(axis=1, initial=0, keepdims=True)
        units /= np.where(largest > 0, largest, 1)
        norms = np.sqrt((units * units).sum(axis=1, keepdims=True))
        return units / np.where(norms > 0, norms, 1)


def _rows_by_bin(units: _UnitVectors, n_bins: int) -> Iterator[int]:
    """Yield the rows bin after bin, in order of selection."""
    n = len(units.rows)
    search = _Search(units)
    size = n // n_bins
    for number in range(n_bins):
        search.begin_bin()
        for _ in range(size if number < n_bins - 1 else n - size * (n_bins - 1)):
            yield int(units.rows[search.pop()])


class _Search:
    """Lazy search for the row with the highest gain.

    When the running vector w has changed by m, no gain has increased by more than |m|. The best row is therefore in a
    pool of the rows with the highest gains, which are updated at every step, as long as the highest gain in the pool
    exceeds the highest gain outside it, when all gains were last computed, by more than |m|.
    """

    def __init__(self, units: _UnitVectors):
        self.units = units
        self.tie = _TIE * len(units.rows)
        self.size = int(np.clip(len(units.rows) // _POOL_SHARE, *_POOL_SIZES))
        self.indices, self.rounded = np.arange(len(units.rows)), units.rounded
        self.remaining = np.ones(len(units.rows), dtype=bool)
        self.total = units.total  # over the rows in no bin

    def begin_bin(self) -> None:
        """Begin a bin, with w as the sum over the remaining rows."""
        if np.count_nonzero(self.remaining) < len(self.remaining) / 2:
            self.indices, self.rounded = self.indices[self.remaining], self.rounded[self.remaining]
            self.remaining = np.ones(len(self.indices), dtype=bool)
        self.w = self.total.copy()
        self._refill()

    def pop(self) -> int:
        """Remove the row with the highest gain, the first of equal ones, and return its index in `units.rows`."""
        gains = self.pool_units @ self.w + self.pool_penalty
        moved = np.sqrt(((self.w - self.w_at_refill) ** 2).sum())
        if not gains.max() - 2 * self.tie > self.highest_outside + moved:
            self._refill()
            gains = self.pool_units @ self.w
        tied = np.flatnonzero(gains >= gains.max() - 2 * self.tie)
        if len(tied) > 1:
            # The rounding of a BLAS product depends on the number of rows; that of this sum does not.
            gains = (self.pool_units[tied] * self.w).sum(axis=1)
            tied = tied[gains >= gains.max() - self.tie]
        best = int(tied[0])
        self.pool_penalty[best] = -np.inf
        self.remaining[self.pool[best]] = False
        self.w -= 2 * self.pool_units[best]
        self.total -= self.pool_units[best]
        return int(self.indices[self.pool[best]])

    def _refill(self) -> None:
        """Compute all gains, and make a pool of the rows that are among the highest or may tie with the highest."""
        gains = self.rounded @ self.w.astype(np.float32)
        gains[~self.remaining] = -np.inf
        error = self.units.error * np.sqrt((self.w**2).sum())
        threshold = gains.max() - 2 * (self.tie + error)
        if len(gains) > self.size:
            threshold = min(threshold, np.partition(gains, len(gains) - self.size)[len(gains) - self.size])
        else:
            threshold = -np.inf
        inside = self.remaining & (gains >= threshold)
        self.pool = np.flatnonzero(inside)
        self.pool_units = self.units.exact(self.indices[self.pool])
        self.pool_penalty = np.zeros(len(self.pool))
        self.highest_outside = float(gains[~inside].max(initial=-np.inf)) + error
        self.w_at_refill = self.w.copy()
