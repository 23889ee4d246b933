"""Positions of row numbers in arrays of row numbers."""

from __future__ import annotations

import numpy as np

__all__ = ["positions_of"]


def positions_of(rows: np.ndarray, array: np.ndarray) -> np.ndarray:
    """Return the position of each row number in an array.

    >>> positions_of(np.array([7, 5, 2]), np.array([2, 9, 7])).tolist()
    [2, -1, 0]

    Args:
        rows: Row numbers.
        array: Distinct row numbers, in any order.

    Returns:
        Int64 of the shape of `rows`, -1 for a row that is not in `array`.
    """
    if not len(array):
        return np.full(len(rows), -1)
    order = np.argsort(array)
    nearest = np.minimum(np.searchsorted(array, rows, sorter=order), len(array) - 1)
    return np.where(array[order[nearest]] == rows, order[nearest], -1)
