"""Exact one-pass selection from a stream of batches, with memory for the budget only.

For a threshold, use `hf_datasel.selection.Between`. Greedy strategies (n-grams, farthest first, near-duplicates,
coverage) and quotas per cluster cannot select in one pass, because which of the first rows they select depends on the
last rows.
"""

import operator
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import SelectionError
from hf_datasel.strategies._checks import blocks, check_budget, check_scores
from hf_datasel.strategies.top import top

Ints = npt.NDArray[np.int64]

_MAX_ROWS = 1 << 62  # the length of a stream is unknown
_ROWS_PER_BLOCK = 1 << 18


class TopHeap:
    """Positions of the highest scores of a stream: equal to `top` of all scores added so far.

    Args:
        budget: Number of positions to store.

    >>> best = TopHeap(budget=2)
    >>> best.add([0.2, float("nan"), 0.9])
    array([0, 2])
    >>> best.add([0.3, 0.1])
    array([0, 1])
    >>> best.positions
    array([2, 3])
    """

    def __init__(self, budget: SupportsIndex):
        self._budget = check_budget("TopHeap", budget, _MAX_ROWS, _MAX_ROWS, without="a score")
        self._num_rows = 0
        self._scores: list[npt.NDArray[np.generic]] = []  # in batches, in the order of the positions
        self._positions: list[Ints] = []
        self._num_stored = 0
        self._lowest: np.generic | None = None  # lowest stored score; later scores must be above it

    def add(self, scores: npt.ArrayLike) -> Ints:
        """Add the scores of the next rows.

        Args:
            scores: One number per row, shape (n,). Rows whose score is NaN or None are never selected; infinity
                counts as the highest score.

        Returns:
            Numbers among these rows, from 0, of those that may be among the highest, int64, ascending.

        Raises:
            SelectionError: The scores are not one flat array of numbers.
        """
        values, entering = check_scores("TopHeap", scores)
        if self._lowest is not None:
            entering = entering & _are_above(values, entering, self._lowest)
        entering_rows = np.flatnonzero(entering)
        if len(entering_rows):
            self._scores.append(values[entering_rows])
            self._positions.append(self._num_rows + entering_rows)
            self._num_stored += len(entering_rows)
        self._num_rows += len(values)
        if (
            self._num_stored > 2 * self._budget
        ):  # so that each score is sorted only a few times, however small the batches
            self._shrink()
        return entering_rows

    @property
    def positions(self) -> Ints:
        """Positions in the stream, int64, highest score first, ties to the lower position; at most `budget`."""
        self._shrink()
        return self._positions[0].copy() if self._positions else np.empty(0, dtype=np.int64)

    def _shrink(self) -> None:
        """Sort the stored scores and drop those that are not among the highest."""
        if not self._num_stored:
            return
        if len({part.dtype for part in self._scores}) > 1:  # a common type would round integers
            self._scores = [part.astype(object) for part in self._scores]
        scores, positions = np.concatenate(self._scores), np.concatenate(self._positions)
        # Equal scores stay in the order of their positions, so that ties are resolved correctly later too.
        best = top(scores, min(self._budget, len(scores)))
        self._scores, self._positions, self._num_stored = [scores[best]], [positions[best]], len(best)
        if self._num_stored == self._budget and self._budget:
            self._lowest = scores[best[-1]]


def _are_above(
    values: npt.NDArray[np.generic], present: npt.NDArray[np.bool_], lowest: np.generic
) -> npt.NDArray[np.bool_]:
    """Return which of the scores that are present are above another one, without rounding either."""
    if values.dtype == np.asarray(lowest).dtype and values.dtype != object:
        # the types of numpy do not say that scalars of any dtype can be compared
        above: npt.NDArray[np.bool_] = values > lowest  # type: ignore[operator]
        return above
    above = np.zeros(len(values), dtype=bool)
    exact = getattr(lowest, "item", lambda: lowest)()
    above[present] = [value > exact for value in values[present].tolist()]
    return above


class Reservoir:
    """Uniform sample without replacement from a stream: all subsets of the rows so far are equally likely.

    Each row gets a random number, and the rows with the highest numbers are stored. The sample depends on `rng` and on
    the number of rows, not on the batches. With a smaller budget and the same `rng`, it is a prefix of this sample.

    Args:
        budget: Number of positions to store.
        rng: Random generator. One number is drawn for every row.

    >>> sample = Reservoir(budget=2, rng=np.random.default_rng(0))
    >>> sample.add(3)
    >>> sample.add(4)
    >>> sample.positions
    array([5, 4])
    """

    def __init__(self, budget: SupportsIndex, rng: np.random.Generator):
        self._highest = TopHeap(check_budget("Reservoir", budget, _MAX_ROWS, _MAX_ROWS, without=""))
        self._rng = rng

    def add(self, rows: SupportsIndex) -> None:
        """Add the next rows.

        Args:
            rows: Number of rows.

        Raises:
            SelectionError: `rows` is not a whole number, 0 or more.
        """
        try:
            count = operator.index(rows)
        except TypeError:
            count = -1
        if count < 0:
            raise SelectionError(
                "Reservoir.add takes the number of the next rows, not the rows: a whole number, 0 or more."
            )
        for block in blocks(count, 1, _ROWS_PER_BLOCK):
            self._highest.add(self._rng.random(block.stop - block.start))

    @property
    def positions(self) -> Ints:
        """Positions in the stream, int64, in random order, so that every prefix is a sample too; at most `budget`."""
        return self._highest.positions
