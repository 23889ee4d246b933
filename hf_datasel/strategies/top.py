"""Selection of the highest scores."""

from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from hf_datasel.strategies._checks import check_budget, check_scores


def top(scores: npt.ArrayLike, budget: SupportsIndex) -> npt.NDArray[np.int64]:
    """Return the positions of the `budget` highest scores, best first.

    Args:
        scores: One number per row, shape (n,). Rows whose score is NaN or None are never selected; infinity
            counts as the highest, minus infinity as the lowest score. Integers and decimals of any size are compared
            exactly.
        budget: Number of positions to return, from 0 to the number of rows with a score.

    Returns:
        int64 positions, shape (budget,), by descending score; equal scores in the order of their positions.

    Raises:
        SelectionError: The budget is not a whole number of rows, is negative or is more than the scores;
            or the scores are not one flat array of numbers.

    >>> top([0.2, float("nan"), 0.9, 0.2], budget=3)
    array([2, 0, 3])
    """
    values, present = check_scores("top", scores)
    candidates = np.flatnonzero(present)
    budget = check_budget("top", budget, available=len(candidates), total=len(values), without="a score")
    # Reversed before and after sorting instead of negated: unsigned and boolean scores cannot be negated.
    descending = np.argsort(values[candidates][::-1], kind="stable")[::-1]
    return candidates[len(candidates) - 1 - descending[:budget]].astype(np.int64, copy=False)
