"""Weights of rows from numbers."""

from __future__ import annotations

import numpy as np

__all__ = ["row_weights"]


def row_weights(values: np.ndarray, scale: str = "none", low: float = 0.0) -> np.ndarray:
    """Return a weight for each number.

    >>> row_weights(np.array([3.0, 1.0, 2.0, 2.0]), "rank", low=0.4).tolist()
    [1.0, 0.4, 0.7, 0.7]
    >>> row_weights(np.array([0.0, 5.0, 10.0]), "minmax").tolist()
    [0.0, 0.5, 1.0]

    Args:
        values: Finite numbers, float of shape (n,).
        scale: `"none"` returns the numbers themselves; `"minmax"` scales them linearly to `low` to 1; `"rank"` does so
            with their ranks, where equal numbers share their mean rank. Numbers that are all equal have weight 1.
        low: Weight of the lowest number, if they are scaled.

    Returns:
        Float64 of shape (n,).
    """
    if scale == "none":
        return np.asarray(values, dtype=np.float64)
    numbers = np.asarray(values, dtype=np.float64)
    if scale == "rank":
        _, distinct, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        numbers = (np.cumsum(counts) - (counts - 1) / 2)[distinct]
    lowest, highest = numbers.min(), numbers.max()
    if lowest == highest:
        return np.ones(len(numbers))
    weights: np.ndarray = low + (1 - low) * ((numbers - lowest) / (highest - lowest))
    return weights
