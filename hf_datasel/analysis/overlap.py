"""How much selections have in common."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from hf_datasel.errors import DatasetMismatchError
from hf_datasel.selection import Selection

__all__ = ["jaccard_matrix", "jaccard_of_rows"]


def jaccard_matrix(selections: Sequence[Selection]) -> np.ndarray:
    """Jaccard similarity of every two selections, float64 of shape (selections, selections), 0 to 1.

    Two random choices of `b` from the same `n` rows share about `b / (2 * n - b)`, which is what to hold it against.

    Raises:
        DatasetMismatchError: the selections are of different datasets.
    """
    if len({selection.provenance["dataset"]["id"] for selection in selections}) > 1:
        raise DatasetMismatchError("The selections were made from different datasets.")
    return jaccard_of_rows([selection.indices for selection in selections])


def jaccard_of_rows(choices: Sequence[np.ndarray]) -> np.ndarray:
    """Jaccard similarity of every two choices of row numbers, float64 of shape (choices, choices), 0 to 1.

    >>> jaccard_of_rows([np.array([0, 1, 2]), np.array([3, 2])]).tolist()
    [[1.0, 0.25], [0.25, 1.0]]
    """
    sets = [np.unique(rows) for rows in choices]
    matrix = np.eye(len(sets))
    for (row, one), (column, other) in combinations(enumerate(sets), 2):
        shared = np.intersect1d(one, other, assume_unique=True).size
        union = one.size + other.size - shared
        matrix[row, column] = matrix[column, row] = shared / union if union else 1.0
    return matrix
