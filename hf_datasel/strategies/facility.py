"""Facility location plus quality: greedy selection of good rows that cover the dataset, the strategy of QDIT.

Source: Bukharin et al. 2024, "Data Diversity Matters for Robust Instruction Tuning" (arXiv:2311.14736), Eq. 1, the
quality-diversity score of section 3.2, and Algorithm 1.
"""

import operator
from collections.abc import Callable, Iterator
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import Interrupted, SelectionError
from hf_datasel.memory import available_memory
from hf_datasel.strategies._checks import Floats, Ints, blocks, check_budget, check_memory, check_vectors
from hf_datasel.strategies.top import top

Doubles = npt.NDArray[np.float64]
Entries = Iterator[tuple[Ints, Ints, Doubles]]  # rows, sites and their similarities

_TIE = 1e-12  # relative difference of gains that count as equal: above rounding, below any meaningful difference
_NOISE = 1e-14  # rounding error of the difference of two cosines
_NUMBERS_PER_TILE = 1 << 18  # similarities in a tile, which then fits into the processor's cache
_ROWS_PER_TILE = 64  # at most
_MEMORY_SHARE = 0.5  # share of the available memory that the matrix of similarities, or the lists, may take
_ENTRY_BYTES = 48  # per similarity in the lists while they are made, estimated
_ENTRIES_PER_ROW = 128  # mean length of the lists of nearer sites below which they always replace the vectors
_SITES_PER_ENTRY = 4  # lists are not made before a row has at most one entry for so many sites
_SAMPLED_ROWS = 256  # rows from which this length is estimated


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
    """Select rows greedily by coverage and quality.

    Each step selects the row that adds most to `(1 - alpha) x d(S) + alpha x q(S)`. The coverage d(S) is the sum over
    all rows v of the cosine of v and its nearest selected row, and q(S) is the **sum** of the quality of the selected
    rows, as in QDIT. The first row is the one with the highest `(1 - alpha) x sum of cosines to all rows + alpha x
    quality`, including cosines below 0. A vector of zeros has cosine 0 with every row, including itself. Cosines are
    computed in float64.

    The result equals computing every gain again at each step. A gain changes only through rows that are nearer to the
    last selected row than to any row selected before, so only these are computed again, against all candidates. Once
    few candidates are nearer to a row than its nearest selected row, they are stored in lists, and the vectors are no
    longer needed. All n x n cosines are stored if they fit into half of the memory that is available, and the lists
    begin as soon as they do. For most data this costs n x n x d operations with all cosines stored and about 4 to 7
    times as many otherwise, hardly more for larger budgets, and memory for a second copy of the vectors in float64.

    With `neighbors=k` the result is **approximate**: each row can be covered only by the k candidates most similar to
    it (usually including itself; equal ones in the order of their positions). All other cosines, and those below 0,
    count as 0, so that a selected row no longer covers distant rows. The first selected rows therefore differ most,
    and a small k favours the middle of dense regions; once every row has one of its k candidates selected, gains are
    exact again. Finding the k candidates costs n x n x d, in blocks; the selection then costs about k x k x n in the
    worst case, and about 64 bytes x k x n of memory.

    d(S) grows with the number of rows and q(S) does not, so that q hardly matters in a large dataset. With
    `normalize=True` the objective becomes `(1 - alpha) x mean of the cosines + alpha x mean quality of the selected
    rows`, with quality scaled to the range from 0 (lowest candidate) to 1 (highest), or to 0 if all are equal. Both
    terms are then at most 1 for any dataset and budget. The mean is over the budget (each selected row adds quality /
    budget), so a smaller budget does not always select the first rows of a larger one.

    Args:
        vectors: One vector per row, shape (n, d), such as embeddings of the instructions. A row with a number that is
            not finite is never selected and does not have to be covered.
        quality: One number per row, shape (n,), of either sign. Rows whose quality is NaN, None or infinite are never
            selected, but have to be covered like any other row.
        budget: Number of rows to select, at most those with a finite quality and vector.
        alpha: Weight of quality, from 0 (coverage alone) to 1 (quality alone, as `top`).
        neighbors: Number of candidates that can cover a row (approximate, see above); exact by default.
        normalize: Whether to scale both terms to at most 1 (see above).
        progress: Called after each selected row with the number of rows selected so far.

    Returns:
        int64 positions in order of selection, shape (budget,). Gains that are equal up to rounding are in the order
        of their positions: those that differ by less than 10^-12 of the largest weighted sum of cosines plus the
        weighted distance of the better row's quality from the median.

    Raises:
        SelectionError: The budget is not a whole number or is more than the candidates; `alpha` is not from 0 to 1;
            `neighbors` is not a whole number from 1; the shapes are not (n, d) and (n,); or the vectors do not fit
            into memory.
        Interrupted: On Ctrl-C, with the positions selected so far.

    >>> facility_location([[1, 0], [0.9, 0.1], [0, 1], [0, 1]], quality=[0.1, 0.1, 0.1, 0.9], budget=2)
    array([3, 0])
    """
    values, finite = check_vectors("facility_location", vectors)
    scores = np.array(quality, dtype=np.float64)
    if scores.shape != finite.shape:
        raise SelectionError(
            f"quality needs one number for each of the {len(finite):,} vectors, but has shape {scores.shape}."
        )
    if not 0 <= alpha <= 1:
        raise SelectionError(f"alpha={alpha!r} must be from 0 (coverage alone) to 1 (quality alone).")
    k = _checked_neighbors(neighbors)
    scores[~finite | ~np.isfinite(scores)] = np.nan
    candidates = np.flatnonzero(~np.isnan(scores))
    budget = check_budget(
        "facility_location", budget, len(candidates), total=len(scores), without="a finite quality and vector"
    )
    if alpha == 1 or not budget:
        selected = top(scores, budget)
        if progress is not None:
            progress(len(selected))
        return selected
    only_covered = np.flatnonzero(finite & np.isnan(scores))
    check_memory("facility_location", len(candidates) + len(only_covered), values.shape[1], 8)
    rows = _unit_rows(values, np.concatenate([candidates, only_covered]))
    # Subtracting a constant does not change the selection and removes an offset common to all qualities. The median
    # rather than the mean, so that one outlier does not decide it.
    bonus = scores[candidates] - np.median(scores[candidates])
    if normalize:
        bonus /= (np.ptp(bonus) or 1.0) * budget
    weight = (1 - alpha) / (len(rows) if normalize else 1)
    greedy = _Greedy(rows, len(candidates), weight, alpha * bonus, progress)
    try:
        if k is None:
            greedy.exact(budget)
        else:
            greedy.approximate(budget, k)
    except KeyboardInterrupt:
        raise Interrupted(candidates[greedy.selected]) from None
    return candidates[greedy.selected]


def nearest_by_cosine(
    vectors: npt.ArrayLike, selected: npt.ArrayLike, positions: npt.ArrayLike
) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Return the selected row that is most similar to each row, and its cosine.

    Args:
        vectors: One vector per row, shape (n, d).
        selected: Positions of the selected rows, shape (c,). Those whose vector is not finite are ignored.
        positions: Positions to look up, shape (m,).

    Returns:
        Position of the selected row with the highest cosine, int64 of shape (m,), and that cosine, float64 of shape
        (m,). Of cosines that differ by less than 10^-12, the first in `selected` is returned. -1 and NaN if the vector
        at the position is not finite or no selected vector is.

    Raises:
        SelectionError: The vectors are not of shape (n, d), or a position is not one of their rows.

    >>> nearest_by_cosine([[1, 0], [2, 0], [0, 3]], selected=[2, 0], positions=[0, 1])
    (array([0, 0]), array([1., 1.]))
    """
    values, finite = check_vectors("nearest_by_cosine", vectors)
    selected_rows, queried = (_checked_positions(array, len(values)) for array in (selected, positions))
    selected_rows = selected_rows[finite[selected_rows]]
    nearest, similarity = np.full(len(queried), -1), np.full(len(queried), np.nan)
    if not len(selected_rows):
        return nearest, similarity
    indices = np.flatnonzero(finite[queried])
    sites = _unit_rows(values, selected_rows)
    for block in blocks(len(indices), max(len(selected_rows), values.shape[1]), _NUMBERS_PER_TILE):
        index = indices[block]
        cosines = _unit_rows(values, queried[index]) @ sites.T
        similarity[index] = cosines.max(axis=1)
        nearest[index] = selected_rows[np.argmax(cosines >= similarity[index, None] - _TIE, axis=1)]
    return nearest, similarity


class _Greedy:
    """State of a greedy selection.

    Args:
        rows: Unit vectors of the rows to cover, shape (rows, d). The first `n_sites` of them can be selected.
        n_sites: Number of rows that can be selected, the sites.
        weight: Weight of a cosine.
        bonus: Weighted quality of each site.
        progress: Called with the number of selected sites.

    Attributes:
        best: Similarity of each row to its nearest selected site.
        gains: What selecting each site would add; -inf once it is selected.
        selected: Selected sites, in order.
    """

    def __init__(
        self, rows: Doubles, n_sites: int, weight: float, bonus: Doubles, progress: Callable[[int], object] | None
    ):
        self.rows, self.sites = rows, rows[:n_sites]  # a view, not a copy
        self.weight, self.bonus, self.progress = weight, bonus, progress
        self.matrix: Doubles | None = None
        self.memory = _MEMORY_SHARE * available_memory()
        self.best = np.zeros(len(rows))
        self.gains = bonus.copy()
        self.selected: list[int] = []

    def exact(self, budget: int) -> None:
        all_rows = np.arange(len(self.rows))
        if budget > 1 and 8 * len(self.rows) * len(self.sites) <= self.memory:
            self.matrix = self.rows @ self.sites.T
        self.gains += self.weight * (self.sites @ self.rows.sum(axis=0))
        first = self._select_best()
        self.best = self.rows @ self.sites[first]
        if budget > 1:
            # The first gains include cosines below 0 and later gains do not, so they are computed again.
            self.gains = self.bonus + self.weight * self._added(all_rows, self.best, np.full(len(all_rows), np.inf))
            self.gains[first] = -np.inf
        while len(self.selected) < budget:
            if self._should_use_lists(budget):
                return self._finish(budget, _Lists(self._nearer(all_rows), len(self.rows), len(self.sites)))
            new_similarity = self.rows @ self.sites[self._select_best()]
            changed = np.flatnonzero(new_similarity > self.best + _NOISE)
            self.gains -= self.weight * self._added(changed, self.best[changed], new_similarity[changed])
            self.best[changed] = new_similarity[changed]

    def approximate(self, budget: int, neighbors: int) -> None:
        nearest = self._most_similar(min(neighbors, len(self.sites)))
        lists = _Lists(nearest, len(self.rows), len(self.sites))
        self.gains += self.weight * np.bincount(lists.sites, lists.similarities, minlength=len(self.sites))
        self._finish(budget, lists)

    def _finish(self, budget: int, lists: "_Lists") -> None:
        self.matrix = None
        while len(self.selected) < budget:
            sites, lost = lists.select(self._select_best(), self.best)
            np.subtract.at(self.gains, sites, self.weight * lost)

    def _select_best(self) -> int:
        best = int(self.gains.argmax())
        # Relative to this gain alone, so that no other row's quality affects what counts as a tie.
        tie = _TIE * (self.weight * len(self.rows) + abs(float(self.bonus[best])))
        site = int(np.argmax(self.gains[: best + 1] >= self.gains[best] - tie))
        self.selected.append(site)
        self.gains[site] = -np.inf
        if self.progress is not None:
            self.progress(len(self.selected))
        return site

    def _tiles(self, rows_to_read: Ints) -> Iterator[tuple[slice, slice, Doubles]]:
        """Yield the similarities of some rows to all sites, tile by tile, in writable arrays."""
        for rows in blocks(len(rows_to_read), 1, _ROWS_PER_TILE):
            for sites in blocks(len(self.sites), len(rows_to_read[rows]), _NUMBERS_PER_TILE):
                if self.matrix is None:
                    yield rows, sites, self.rows[rows_to_read[rows]] @ self.sites[sites].T
                else:
                    yield rows, sites, self.matrix[rows_to_read[rows], sites]

    def _added(self, rows_to_read: Ints, low: Doubles, high: Doubles) -> Doubles:
        """Return for each site the sum over some rows of its similarity clipped to `low` and `high`, minus `low`."""
        added = np.zeros(len(self.sites))
        for rows, sites, tile in self._tiles(rows_to_read):
            np.clip(tile, low[rows, None], high[rows, None], out=tile)
            added[sites] += np.ones(len(tile)) @ tile
        added -= low.sum()
        return added

    def _should_use_lists(self, budget: int) -> bool:
        """Return whether lists of the sites nearer to a row than any selected site are short enough to pay off."""
        n_selected = len(self.selected)
        if n_selected & (n_selected - 1) or budget < 3 * n_selected:  # checked after 1, 2, 4, 8 ... selections
            return False
        sample = np.unique(np.linspace(0, len(self.rows) - 1, _SAMPLED_ROWS).astype(np.int64))
        mean = sum(len(similarities) for *_, similarities in self._nearer(sample)) / len(sample)
        return mean <= max(_ENTRIES_PER_ROW, self._affordable_entries())

    def _affordable_entries(self) -> float:
        """Return the mean length of lists that cost less memory and time than computing similarities again."""
        if self.matrix is not None:
            return 0
        return min(self.memory / (_ENTRY_BYTES * len(self.rows)), len(self.sites) / _SITES_PER_ENTRY)

    def _nearer(self, rows_to_read: Ints) -> Entries:
        """Yield the sites that are more similar to a row than any selected site."""
        for rows, sites, tile in self._tiles(rows_to_read):
            cells = np.flatnonzero(tile > self.best[rows_to_read[rows], None] + _NOISE)
            row, site = np.divmod(cells, tile.shape[1])
            yield rows_to_read[rows][row], site + sites.start, tile.ravel()[cells]

    def _most_similar(self, k: int) -> Entries:
        """Yield the k sites most similar to each row, if the similarity is above 0; of equal ones the first."""
        for rows in blocks(len(self.rows), len(self.sites), 16 * _NUMBERS_PER_TILE):
            similarities = self.rows[rows] @ self.sites.T
            last = np.partition(similarities, -k, axis=1)[:, -k, None]
            near = similarities >= last - _TIE
            for row in np.flatnonzero(np.count_nonzero(near, axis=1) > k):
                equal = np.flatnonzero(near[row] & (similarities[row] <= last[row] + _TIE))
                near[row, equal[k - np.count_nonzero(near[row]) :]] = False
            cells = np.flatnonzero(near & (similarities > _NOISE))
            row_index, site = np.divmod(cells, len(self.sites))
            yield row_index + rows.start, site, similarities.ravel()[cells]


class _Lists:
    """For each row, a shrinking list of the sites that are nearer than any selected site, with their similarities."""

    def __init__(self, entries: Entries, n_rows: int, n_sites: int):
        from scipy.sparse import coo_matrix

        parts = [(rows.astype(np.int32), sites.astype(np.int32), values) for rows, sites, values in entries]
        rows, sites, values = (np.concatenate(part) for part in zip(*parts, strict=True))
        parts.clear()
        by_row = coo_matrix((values, (rows, sites)), shape=(n_rows, n_sites)).tocsr()
        self.by_site = by_row.tocsc()
        self.sites, self.similarities = by_row.indices, by_row.data
        self.starts, self.lengths = by_row.indptr[:-1].astype(np.int64), np.diff(by_row.indptr).astype(np.int64)

    def select(self, site: int, best: Doubles) -> tuple[npt.NDArray[np.int32], Doubles]:
        """Update `best` in place for a selected site.

        Returns:
            Sites whose gain falls, possibly repeated, and by how much, before weighting.
        """
        span = slice(self.by_site.indptr[site], self.by_site.indptr[site + 1])
        changed, new_similarity = self.by_site.indices[span], self.by_site.data[span]
        nearer = new_similarity > best[changed]
        changed, new_similarity = changed[nearer], new_similarity[nearer]
        lengths = self.lengths[changed]
        entries = _ranges(self.starts[changed], lengths)
        sites, similarities, new = self.sites[entries], self.similarities[entries], np.repeat(new_similarity, lengths)
        lost = np.minimum(similarities, new) - np.repeat(best[changed], lengths)
        best[changed] = new_similarity
        # Sites that are still nearer move to the front of their list, so that the others are not read again.
        still_nearer = similarities > new + _NOISE
        remaining = np.bincount(np.repeat(np.arange(len(changed)), lengths)[still_nearer], minlength=len(changed))
        entries = _ranges(self.starts[changed], remaining)
        self.sites[entries], self.similarities[entries], self.lengths[changed] = (
            sites[still_nearer],
            similarities[still_nearer],
            remaining,
        )
        return sites, lost


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """Concatenate `range(start, start + length)` over all pairs of start and length.

    >>> _ranges(np.array([5, 0]), np.array([2, 3]))
    array([5, 6, 0, 1, 2])
    """
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


def _unit_rows(vectors: Floats, positions: Ints) -> Doubles:
    """Return the vectors at some positions scaled to length 1, in float64; zeros stay zeros."""
    units = np.empty((len(positions), vectors.shape[1]))
    for block in blocks(len(positions), vectors.shape[1]):
        part = vectors[positions[block]].astype(np.float64)
        largest = np.abs(part).max(axis=1, initial=0)
        part /= np.where(largest > 0, largest, 1)[:, None]  # so that squares neither overflow nor underflow
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
    array = np.asarray(positions)
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= n_rows:
        raise SelectionError(
            f"nearest_by_cosine takes flat lists of positions from 0 to {n_rows - 1}, but got {array}."
        )
    return array.astype(np.int64)
