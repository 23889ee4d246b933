"""Choices from data that is seen once, in batches: exact, and in memory for the budget alone.

These two have such a form, and a threshold is `hf_datasel.selection.Between`; greedy choices (n-grams, farthest first,
near copies, coverage) and quotas per cluster have none, as what they take of the first rows depends on the last ones.
"""

import operator
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import SelectionError
from hf_datasel.strategies._checks import blocks, check_budget
from hf_datasel.strategies.top import top

Ints = npt.NDArray[np.int64]

_MOST_ROWS = 1 << 62  # what a stream will hold is not known
_ROWS_AT_ONCE = 1 << 18


class TopHeap:
    """The positions of the highest scores so far: at any time what `top` gives for all batches in one.

    Args:
        budget: How many positions to hold.

    >>> best = TopHeap(budget=2)
    >>> best.add([0.2, float("nan"), 0.9])
    >>> best.add([0.3, 0.1])
    >>> best.positions
    array([2, 3])
    """

    def __init__(self, budget: SupportsIndex):
        self._budget = check_budget("TopHeap", budget, _MOST_ROWS, _MOST_ROWS, without="a score")
        self._seen = 0
        self._scores: list[npt.NDArray[np.generic]] = []  # in batches, in the order of the positions
        self._positions: list[Ints] = []
        self._held = 0
        self._lowest: np.generic | None = None  # a score that is not above it is too late

    def add(self, scores: npt.ArrayLike) -> None:
        """Take the scores of the next rows.

        Args:
            scores: One number per row, shape (n,). Rows whose score is NaN, None or infinite are never held.

        Raises:
            SelectionError: The scores are not one flat array of numbers.
        """
        values = np.asarray(scores)
        if values.dtype == object:  # a list with None, which is how a null reads
            values = values.astype(np.float64)
        if values.ndim != 1:
            raise SelectionError(f"TopHeap takes one score per row, shape (n,), but got shape {values.shape}.")
        entering = np.isfinite(values)
        if self._lowest is not None:
            entering &= values > self._lowest
        at = np.flatnonzero(entering)
        if len(at):
            self._scores.append(values[at])
            self._positions.append(self._seen + at)
            self._held += len(at)
        self._seen += len(values)
        if self._held > 2 * self._budget:  # so that each score is sorted only a few times, however small the batches
            self._shrink()

    @property
    def positions(self) -> Ints:
        """int64 positions in the stream, best first, ties to the lower; all with a score while these are too few."""
        self._shrink()
        return self._positions[0].copy() if self._positions else np.empty(0, dtype=np.int64)

    def _shrink(self) -> None:
        """Put what is held in order, and let go of every score that is not among the highest."""
        if not self._held:
            return
        scores, positions = np.concatenate(self._scores), np.concatenate(self._positions)
        # Equal scores are held in the order of their positions before and after, so that ties stay right.
        best = top(scores, min(self._budget, len(scores)))
        self._scores, self._positions, self._held = [scores[best]], [positions[best]], len(best)
        if self._held == self._budget and self._budget:
            self._lowest = scores[best[-1]]


class Reservoir:
    """A uniform draw without replacement from the rows so far, every subset of them being equally likely.

    Each row gets a random number, and those with the highest are held. The draw depends on `rng` and on the number of
    rows, not on their batches; with a smaller budget and the same `rng`, it is the beginning of this one.

    Args:
        budget: How many positions to hold.
        rng: One number is drawn from it for every row.

    >>> drawn = Reservoir(budget=2, rng=np.random.default_rng(0))
    >>> drawn.add(3)
    >>> drawn.add(4)
    >>> drawn.positions
    array([5, 4])
    """

    def __init__(self, budget: SupportsIndex, rng: np.random.Generator):
        self._highest = TopHeap(check_budget("Reservoir", budget, _MOST_ROWS, _MOST_ROWS, without=""))
        self._rng = rng

    def add(self, rows: SupportsIndex) -> None:
        """Take the next rows.

        Args:
            rows: How many they are.

        Raises:
            SelectionError: It is not a whole number of rows, 0 or more.
        """
        try:
            count = operator.index(rows)
        except TypeError:
            count = -1
        if count < 0:
            raise SelectionError(
                "Reservoir.add takes the number of the next rows, not the rows: a whole number, 0 or more."
            )
        for block in blocks(count, 1, _ROWS_AT_ONCE):
            self._highest.add(self._rng.random(block.stop - block.start))

    @property
    def positions(self) -> Ints:
        """int64 positions in the stream, in random order, so that the first of them are a draw as well.

        All rows while these are fewer than the budget.
        """
        return self._highest.positions
