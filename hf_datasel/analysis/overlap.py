"""Jaccard similarity of selections."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from hf_datasel.errors import DatasetMismatchError
from hf_datasel.selection import Selection

__all__ = ["jaccard_matrix", "jaccard_of_rows"]


def jaccard_matrix(selections: Sequence[Selection]) -> np.ndarray:
    """Compute the Jaccard similarity of every two selections.

    Two random selections of `b` of the same `n` rows have an expected similarity of about `b / (2 * n - b)`.

    Args:
        selections: Selections from the same dataset.

    Returns:
        The similarities, 0 to 1, float64 of shape (selections, selections).

    Raises:
        DatasetMismatchError: If the selections were made from different datasets.
    """
    if len({selection.provenance["dataset"]["id"] for selection in selections}) > 1:
        raise DatasetMismatchError("The selections were made from different datasets.")
    return jaccard_of_rows([selection.indices for selection in selections])


def jaccard_of_rows(selections: Sequence[np.ndarray]) -> np.ndarray:
    """Compute the Jaccard similarity of every two arrays of row numbers.

    Args:
        selections: Row numbers of each selection, int of shape (selected,).

    Returns:
        The similarities, 0 to 1, float64 of shape (selections, selections).

    >>> jaccard_of_rows([np.array([0, 1, 2]), np.array([3, 2])]).tolist()
    [[1.0, 0.25], [0.25, 1.0]]
    """
    sets = [np.unique(rows) for rows in selections]
    matrix = np.eye(len(sets))
    for (i, first), (j, second) in combinations(enumerate(sets), 2):
        shared = np.intersect1d(first, second, assume_unique=True).size
        union = first.size + second.size - shared
        matrix[i, j] = matrix[j, i] = shared / union if union else 1.0
    return matrix
