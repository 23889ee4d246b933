"""How much selections have in common."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from hf_datasel.selection import Selection

__all__ = ["jaccard_matrix"]


def jaccard_matrix(selections: Sequence[Selection]) -> np.ndarray:
    """Jaccard similarity of every two selections, float64 of shape (selections, selections), 0 to 1.

    Two random choices of `b` from the same `n` rows share about `b / (2 * n - b)`, which is what to hold it against.

    Raises:
        DatasetMismatchError: the selections are of different datasets.
    """
    matrix = np.eye(len(selections))
    for (row, one), (column, other) in combinations(enumerate(selections), 2):
        matrix[row, column] = matrix[column, row] = one.overlap(other)
    return matrix
