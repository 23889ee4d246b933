"""Greedy choice of rows that are good and stand for the others: facility location plus quality, the strategy of QDIT.

Source: Bukharin et al. 2024, "Data Diversity Matters for Robust Instruction Tuning" (arXiv:2311.14736), Eq. 1, the
quality-diversity score of section 3.2, and Algorithm 1.
"""

import operator
from collections.abc import Callable, Iterator
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix

from hf_datasel.errors import Interrupted, SelectionError
from hf_datasel.strategies._checks import Floats, Ints, blocks, check_budget, check_vectors
from hf_datasel.strategies.top import top

Doubles = npt.NDArray[np.float64]
Entries = Iterator[tuple[Ints, Ints, Doubles]]  # rows, sites and their similarities

_TIE = 1e-12  # well above the rounding of the sums, well below a difference that means something
_NOISE = 1e-14  # differences of two cosines that are rounding
_NUMBERS_AT_ONCE = 1 << 18  # of a tile of similarities: what stays in the processor's cache
_ROWS_AT_ONCE = 64  # of a tile, if there are so many
_KEPT_MATRIX = 1 << 25  # similarities (256 MiB) up to which the whole matrix is kept rather than computed again
_ENTRIES_PER_ROW = 128  # of the lists that replace the vectors as soon as they are so short
_SAMPLED_ROWS = 256  # from which the length of the lists is estimated


def facility_location(
    vectors: npt.ArrayLike,
    quality: npt.ArrayLike,
    budget: SupportsIndex,
    alpha: float = 0.5,
    *,
    neighbors: int | None = None,
    normalize: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Ints:
    """Choose rows that are good and cover the others, one at a time.

    Each step takes the row that adds most to `(1 - alpha) x d(S) + alpha x q(S)`, where d(S), the coverage, is the
    sum over the rows v of the cosine of v and its nearest chosen row, and q(S) the **sum** of the quality of the
    chosen rows, as in QDIT. d of nothing is one constant, which plays no part: the first row is the one with the
    greatest `(1 - alpha) x sum of cosines to all rows + alpha x quality`, cosines below 0 included. A vector of zeros
    has cosine 0 with every row, itself included. Cosines are computed in float64.

    The result is that of computing every gain anew at each step. A gain changes only through the rows that the last
    choice is nearer to than any before it, so only these are computed again, against all candidates; and once few
    candidates are still nearer to a row than what is chosen, they are listed, and the vectors are not needed any
    more. That costs some 5 to 7 times n x n x d for most data, hardly more for larger budgets, and memory for a second
    copy of the vectors in float64, for up to 256 MiB of similarities (never n x n of them beyond that), and for at
    most about 8 kB a row of lists.

    With `neighbors=k` the result is **approximate**: each row can be covered only by the k rows most similar to it
    of those that can be chosen (itself, as a rule, and equal ones in the order of their positions); all others, and
    cosines below 0, count as 0. What is given up: that a choice also stands, less well, for rows farther off. Early
    choices therefore differ most, and a small k favours the middle of dense regions; once every row has one of its k
    chosen, gains are exact again. Finding the k costs n x n x d, in blocks; the choice then some k x k x n in the
    worst case, and some 64 bytes x k x n of memory.

    d(S) grows with the number of rows and q(S) does not, so that in a large dataset q decides next to nothing. With
    `normalize=True` the sum becomes `(1 - alpha) x mean of the cosines + alpha x mean quality of the chosen`, with
    quality scaled to 0 (the lowest that can be chosen) to 1 (the highest), or to 0 if all are equal. Both are then at
    most 1 for any dataset and budget. The mean is over the budget, each choice adding quality / budget: a smaller
    budget need not give the first rows of a larger one.

    Args:
        vectors: One vector per row, shape (n, d), such as embeddings of the instructions. A row with a number that is
            not finite is never chosen, and is not among the rows to be covered.
        quality: One number per row, shape (n,), of either sign. Rows whose quality is NaN, None or infinite are never
            chosen, but are to be covered like any other.
        budget: Rows to choose, at most those with a finite quality and vector.
        alpha: What quality weighs, 0 to 1: 0 is coverage alone, 1 is `top`.
        neighbors: See above; exact when not given.
        normalize: See above.
        progress: Called after each choice with the number of rows chosen so far.

    Returns:
        int64 positions in order of choice, shape (budget,). Of gains that are equal but for rounding, the row with the
        lower position: they differ by less than a part in 10^12 of the largest sum of cosines plus the distance of the
        better row's quality from the median, both as they are weighted.

    Raises:
        SelectionError: The budget is no number of rows or more than can be chosen; alpha is not from 0 to 1;
            neighbors is not a whole number from 1; or the vectors and the quality are not of shape (n, d) and (n,).
        Interrupted: Ctrl-C; it has the positions chosen so far.

    >>> facility_location([[1, 0], [0.9, 0.1], [0, 1], [0, 1]], quality=[0.1, 0.1, 0.1, 0.9], budget=2)
    array([3, 0])
    """
    values, usable = check_vectors("facility_location", vectors)
    scores = np.array(quality, dtype=np.float64)
    if scores.shape != usable.shape:
        raise SelectionError(
            f"quality needs one number for each of the {len(usable):,} vectors, but has shape {scores.shape}."
        )
    if not 0 <= alpha <= 1:
        raise SelectionError(f"alpha={alpha!r} must be from 0 (coverage alone) to 1 (quality alone).")
    k = _checked_neighbors(neighbors)
    scores[~usable | ~np.isfinite(scores)] = np.nan
    candidates = np.flatnonzero(~np.isnan(scores))
    budget = check_budget(
        "facility_location", budget, len(candidates), total=len(scores), without="a finite quality and vector"
    )
    if alpha == 1 or not budget:
        chosen = top(scores, budget)
        if progress is not None:
            progress(len(chosen))
        return chosen
    others = np.flatnonzero(usable & np.isnan(scores))
    rows = _unit_rows(values, np.concatenate([candidates, others]))
    # The same for the choice, and free of a common offset, which one row far off the others does not decide.
    extra = scores[candidates] - np.median(scores[candidates])
    if normalize:
        extra /= (np.ptp(extra) or 1.0) * budget
    weight = (1 - alpha) / (len(rows) if normalize else 1)
    greedy = _Greedy(rows, len(candidates), weight, alpha * extra, progress)
    try:
        if k is None:
            greedy.exact(budget)
        else:
            greedy.approximate(budget, k)
    except KeyboardInterrupt:
        raise Interrupted(candidates[greedy.chosen]) from None
    return candidates[greedy.chosen]


def nearest_by_cosine(
    vectors: npt.ArrayLike, chosen: npt.ArrayLike, positions: npt.ArrayLike
) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Say for each position which of the chosen rows stands for it, and how well.

    Args:
        vectors: One vector per row, shape (n, d).
        chosen: Positions of the chosen rows, shape (c,). Those whose vector is not finite stand for nothing.
        positions: Positions to look up, shape (m,).

    Returns:
        The position of the chosen row with the highest cosine, int64, shape (m,), the first in `chosen` of those that
        differ by less than 10^-12; and that cosine, float64, shape (m,). -1 and NaN where the vector at the position
        is not finite, or no chosen one is.

    Raises:
        SelectionError: The vectors are not of shape (n, d), or a position is not one of their rows.

    >>> nearest_by_cosine([[1, 0], [2, 0], [0, 3]], chosen=[2, 0], positions=[0, 1])
    (array([0, 0]), array([1., 1.]))
    """
    values, usable = check_vectors("nearest_by_cosine", vectors)
    picked, asked = (_checked_positions(at, len(values)) for at in (chosen, positions))
    picked = picked[usable[picked]]
    nearest, similarity = np.full(len(asked), -1), np.full(len(asked), np.nan)
    if not len(picked):
        return nearest, similarity
    known = np.flatnonzero(usable[asked])
    sites = _unit_rows(values, picked)
    for block in blocks(len(known), max(len(picked), values.shape[1]), _NUMBERS_AT_ONCE):
        at = known[block]
        cosines = _unit_rows(values, asked[at]) @ sites.T
        similarity[at] = cosines.max(axis=1)
        nearest[at] = picked[np.argmax(cosines >= similarity[at, None] - _TIE, axis=1)]
    return nearest, similarity


class _Greedy:
    """The state of a choice: `rows` are to be covered, and the first of them, `sites`, can be chosen; unit vectors.

    Attributes:
        best: Per row, its similarity to the nearest chosen site.
        gains: Per site, what choosing it would add; -inf once it is chosen.
        chosen: Sites, in order.
    """

    def __init__(
        self, rows: Doubles, n_sites: int, weight: float, extra: Doubles, progress: Callable[[int], object] | None
    ):
        self.rows, self.sites = rows, rows[:n_sites]  # a view: no second copy of the vectors
        self.weight, self.extra, self.progress = weight, extra, progress
        self.matrix: Doubles | None = None
        self.best = np.zeros(len(rows))
        self.gains = extra.copy()
        self.chosen: list[int] = []

    def exact(self, budget: int) -> None:
        everyone = np.arange(len(self.rows))
        if budget > 1 and len(self.rows) * len(self.sites) <= _KEPT_MATRIX:
            self.matrix = self.rows @ self.sites.T
        self.gains += self.weight * (self.sites @ self.rows.sum(axis=0))
        first = self._choose()
        self.best = self.rows @ self.sites[first]
        if budget > 1:
            # The first gains count cosines below 0 and later ones do not: these cannot be had from those.
            self.gains = self.extra + self.weight * self._added(everyone, self.best, np.full(len(everyone), np.inf))
            self.gains[first] = -np.inf
        while len(self.chosen) < budget:
            if self._lists_pay(budget):
                return self._finish(budget, _Lists(self._nearer(everyone), len(self.rows), len(self.sites)))
            similar = self.rows @ self.sites[self._choose()]
            moved = np.flatnonzero(similar > self.best + _NOISE)
            self.gains -= self.weight * self._added(moved, self.best[moved], similar[moved])
            self.best[moved] = similar[moved]

    def approximate(self, budget: int, neighbors: int) -> None:
        nearest = self._most_similar(min(neighbors, len(self.sites)))
        lists = _Lists(nearest, len(self.rows), len(self.sites))
        self.gains += self.weight * np.bincount(lists.sites, lists.similarities, minlength=len(self.sites))
        self._finish(budget, lists)

    def _finish(self, budget: int, lists: "_Lists") -> None:
        self.matrix = None
        while len(self.chosen) < budget:
            sites, lost = lists.choose(self._choose(), self.best)
            np.subtract.at(self.gains, sites, self.weight * lost)

    def _choose(self) -> int:
        best = int(self.gains.argmax())
        # Of the size of this gain alone, so that no other row's quality decides what is a tie.
        tie = _TIE * (self.weight * len(self.rows) + abs(float(self.extra[best])))
        site = int(np.argmax(self.gains[: best + 1] >= self.gains[best] - tie))
        self.chosen.append(site)
        self.gains[site] = -np.inf
        if self.progress is not None:
            self.progress(len(self.chosen))
        return site

    def _tiles(self, which: Ints) -> Iterator[tuple[slice, slice, Doubles]]:
        """Give the similarities of some rows to all sites, tile by tile, in arrays that may be written to."""
        for rows in blocks(len(which), 1, _ROWS_AT_ONCE):
            for sites in blocks(len(self.sites), len(which[rows]), _NUMBERS_AT_ONCE):
                if self.matrix is None:
                    yield rows, sites, self.rows[which[rows]] @ self.sites[sites].T
                else:
                    yield rows, sites, self.matrix[which[rows], sites]

    def _added(self, which: Ints, low: Doubles, high: Doubles) -> Doubles:
        """Sum over some rows, for each site, by how much its similarity is above `low`, at most up to `high`."""
        added = np.zeros(len(self.sites))
        for rows, sites, tile in self._tiles(which):
            np.clip(tile, low[rows, None], high[rows, None], out=tile)
            added[sites] += np.ones(len(tile)) @ tile
        added -= low.sum()
        return added

    def _lists_pay(self, budget: int) -> bool:
        """Say whether lists of the sites nearer to a row than any chosen one would be short, and used long enough."""
        done = len(self.chosen)
        if done & (done - 1) or budget < 3 * done:  # looked at after 1, 2, 4, 8 ... choices
            return False
        sample = np.unique(np.linspace(0, len(self.rows) - 1, _SAMPLED_ROWS).astype(np.int64))
        return sum(len(similarities) for *_, similarities in self._nearer(sample)) <= _ENTRIES_PER_ROW * len(sample)

    def _nearer(self, which: Ints) -> Entries:
        """Find the sites that are more similar to a row than any chosen site is."""
        for rows, sites, tile in self._tiles(which):
            cells = np.flatnonzero(tile > self.best[which[rows], None] + _NOISE)
            at, site = np.divmod(cells, tile.shape[1])
            yield which[rows][at], site + sites.start, tile.ravel()[cells]

    def _most_similar(self, k: int) -> Entries:
        """Find the k sites most similar to each row, where that is above 0; of equal ones the first."""
        for rows in blocks(len(self.rows), len(self.sites), 16 * _NUMBERS_AT_ONCE):
            similarities = self.rows[rows] @ self.sites.T
            last = np.partition(similarities, -k, axis=1)[:, -k, None]
            kept = similarities >= last - _TIE
            for row in np.flatnonzero(np.count_nonzero(kept, axis=1) > k):
                equal = np.flatnonzero(kept[row] & (similarities[row] <= last[row] + _TIE))
                kept[row, equal[k - np.count_nonzero(kept[row]) :]] = False
            cells = np.flatnonzero(kept & (similarities > _NOISE))
            at, site = np.divmod(cells, len(self.sites))
            yield at + rows.start, site, similarities.ravel()[cells]


class _Lists:
    """For each row the sites that it would gain by, with their similarities: sparse, shrinking as sites are chosen."""

    def __init__(self, entries: Entries, n_rows: int, n_sites: int):
        parts = [(rows.astype(np.int32), sites.astype(np.int32), values) for rows, sites, values in entries]
        rows, sites, values = (np.concatenate(part) for part in zip(*parts, strict=True))
        parts.clear()
        by_row = coo_matrix((values, (rows, sites)), shape=(n_rows, n_sites)).tocsr()
        self.by_site = by_row.tocsc()
        self.sites, self.similarities = by_row.indices, by_row.data
        self.starts, self.lengths = by_row.indptr[:-1].astype(np.int64), np.diff(by_row.indptr).astype(np.int64)

    def choose(self, site: int, best: Doubles) -> tuple[npt.NDArray[np.int32], Doubles]:
        """Raise `best`, in place, by a site; return which sites lose how much by that, some of them repeatedly."""
        span = slice(self.by_site.indptr[site], self.by_site.indptr[site + 1])
        moved, similar = self.by_site.indices[span], self.by_site.data[span]
        nearer = similar > best[moved]
        moved, similar = moved[nearer], similar[nearer]
        lengths = self.lengths[moved]
        entries = _ranges(self.starts[moved], lengths)
        sites, similarities, new = self.sites[entries], self.similarities[entries], np.repeat(similar, lengths)
        lost = np.minimum(similarities, new) - np.repeat(best[moved], lengths)
        best[moved] = similar
        # What is still nearer moves to the front of its list, so that nothing is read twice in vain.
        alive = similarities > new + _NOISE
        left = np.bincount(np.repeat(np.arange(len(moved)), lengths)[alive], minlength=len(moved))
        entries = _ranges(self.starts[moved], left)
        self.sites[entries], self.similarities[entries], self.lengths[moved] = sites[alive], similarities[alive], left
        return sites, lost


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """Concatenate `range(start, start + length)` over all of them.

    >>> _ranges(np.array([5, 0]), np.array([2, 3]))
    array([5, 6, 0, 1, 2])
    """
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


def _unit_rows(vectors: Floats, positions: Ints) -> Doubles:
    """Scale some vectors to length 1, in float64; zeros stay zeros."""
    units = np.empty((len(positions), vectors.shape[1]))
    for block in blocks(len(positions), vectors.shape[1]):
        part = vectors[positions[block]].astype(np.float64)
        largest = np.abs(part).max(axis=1, initial=0)
        part /= np.where(largest > 0, largest, 1)[:, None]  # so that no square overflows or vanishes
        length = np.linalg.norm(part, axis=1)
        units[block] = part / np.where(length > 0, length, 1)[:, None]
    return units


def _checked_neighbors(neighbors: SupportsIndex | None) -> int | None:
    if neighbors is None:
        return None
    try:
        k = operator.index(neighbors)
    except TypeError:
        k = 0
    if k < 1 or isinstance(neighbors, bool):
        raise SelectionError(f"neighbors={neighbors!r} must be a whole number of rows, 1 or more, or None for exact.")
    return k


def _checked_positions(positions: npt.ArrayLike, n_rows: int) -> Ints:
    at = np.asarray(positions)
    if at.size == 0:
        return np.empty(0, dtype=np.int64)
    if at.ndim != 1 or at.dtype.kind not in "iu" or at.min() < 0 or at.max() >= n_rows:
        raise SelectionError(f"nearest_by_cosine takes flat lists of positions from 0 to {n_rows - 1}, but got {at}.")
    return at.astype(np.int64)
