"""Round robin over ranked lists of rows, such as one per task."""

from collections.abc import Iterable
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import SelectionError
from hf_datasel.strategies._checks import Ints, check_budget
from hf_datasel.strategies.top import top


def round_robin(lists: Iterable[npt.ArrayLike], rows: int, budget: SupportsIndex) -> Ints:
    """Return the positions that lists select in turn, each the row with its highest score that it has not named yet.

    A list whose next row is selected already names it all the same, and passes its turn: positions are ordered by
    their best rank in any list, then by the number of that list. Memory is that of a few numbers per row, for any
    number of lists.

    Reference: Ivison et al. 2025 (2503.01807), Algorithm 1, without the repetitions, as in the authors' code.

    Args:
        lists: Scores of each list, one number per row. Rows whose score is NaN are not in the list. Read once, one
            after the other.
        rows: Number of rows.
        budget: Number of positions to return.

    Returns:
        Int64 positions, in the order of selection; fewer than the budget if all lists are exhausted. Equal scores of a
        list rank in the order of their positions.

    Raises:
        SelectionError: The budget is not a whole number from 0 to the number of rows, or a list has another length.

    >>> round_robin([[0.9, 0.8, 0.1, 0.2], [0.7, 0.9, 0.3, float("nan")]], rows=4, budget=4)
    array([0, 1, 3, 2])
    """
    budget = check_budget("round_robin", budget, rows, rows, without="")
    turns = np.full(rows, np.iinfo(np.int64).max)
    for number, scores in enumerate(lists):
        values = np.asarray(scores)
        if values.shape != (rows,):
            raise SelectionError(f"round_robin: list {number} has shape {values.shape}, and there are {rows:,} rows.")
        ranked = top(values, min(budget, rows - int(np.isnan(values).sum())))  # no list selects more rows than these
        turns[ranked] = np.minimum(turns[ranked], (np.arange(len(ranked)) << 32) + number)
    selected = np.flatnonzero(turns < np.iinfo(np.int64).max)
    ordered: Ints = selected[np.argsort(turns[selected])][:budget].astype(np.int64)
    return ordered
