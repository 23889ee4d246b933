"""Weighted sums and products of several scores of the same rows, on a common scale."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import SelectionError, check_option

__all__ = ["Combination", "Scale", "complete_rows", "mix", "on_scale", "simplex"]

Scale = Literal["ranks", "zscores", "values"]
"""What is mixed: ranks, values in standard deviations from their mean, or the values themselves."""
Combination = Literal["sum", "product"]
Doubles = npt.NDArray[np.float64]


def on_scale(values: npt.ArrayLike, scale: Scale) -> Doubles:
    """Bring scores to a scale on which those of other columns can be compared with them.

    Args:
        values: One number per row, shape (n,), none missing.
        scale: `"ranks"` are (r - 0.5) / n with r from 1 for the lowest value, and the mean rank for equal values:
            above 0 and below 1. `"zscores"` are (value - mean) / standard deviation, and 0 if all values are equal.
            `"values"` are the values.

    Returns:
        float64 of shape (n,).

    Raises:
        SelectionError: There is no such scale.

    >>> on_scale([7.0, 1.0, 7.0, 9.0], "ranks")
    array([0.5  , 0.125, 0.5  , 0.875])
    """
    check_option(f"mix: scale={scale!r}", scale, get_args(Scale), SelectionError)
    numbers = np.asarray(values, dtype=np.float64)
    if scale == "ranks":
        from scipy.stats import rankdata  # takes a tenth of a second, and every selector imports this module

        return np.asarray((rankdata(numbers) - 0.5) / max(len(numbers), 1), dtype=np.float64)
    if scale == "values" or not len(numbers):
        return numbers
    spread = numbers.std()
    return np.zeros(len(numbers)) if not spread else (numbers - numbers.mean()) / spread


def complete_rows(columns: Sequence[npt.NDArray[np.float64]], scale: Scale) -> npt.NDArray[np.bool_]:
    """Return which rows have all scores, bool of shape (n,): finite ones, or with ranks infinite ones too.

    Args:
        columns: Scores, each of shape (n,).
        scale: As in `on_scale`.
    """
    present = [~np.isnan(column) if scale == "ranks" else np.isfinite(column) for column in columns]
    return np.asarray(np.logical_and.reduce(present))


def mix(
    columns: Sequence[npt.ArrayLike],
    weights: Sequence[float],
    scale: Scale = "ranks",
    combine: Combination = "sum",
) -> Doubles:
    """Combine several scores of each row into one.

    Args:
        columns: Scores, each of shape (n,). A row without one of them (NaN or None) has no result, and counts in no
            rank, mean or standard deviation; so does a row with an infinite one, except in ranks.
        weights: One number per column; the sign says whether higher (positive) or lower values are better.
        scale: As in `on_scale`.
        combine: `"sum"` of weight x score, or `"product"` of score ** weight.

    Returns:
        float64 of shape (n,), NaN for rows without a result.

    Raises:
        SelectionError: Columns and weights differ in number, the columns in length, or there is no such option.

    >>> mix([[1.0, 5.0, np.nan, 9.0], [0.4, 0.3, 0.9, 0.1]], [0.5, 0.5])
    array([0.5, 0.5, nan, 0.5])
    """
    check_option(f"mix: combine={combine!r}", combine, get_args(Combination), SelectionError)
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    if not arrays or len(arrays) != len(weights) or len({array.shape for array in arrays}) > 1:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise SelectionError(f"mix: {len(weights)} weights for columns of shape {shapes or 'none'}.")
    rows = np.flatnonzero(complete_rows(arrays, scale))
    scaled = [on_scale(array[rows], scale) for array in arrays]
    result = np.full(len(arrays[0]), np.nan)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if combine == "sum":
            result[rows] = np.sum([weight * part for weight, part in zip(weights, scaled, strict=True)], axis=0)
        else:
            result[rows] = np.prod([part**weight for weight, part in zip(weights, scaled, strict=True)], axis=0)
    return result


def simplex(parts: int, steps: int) -> list[tuple[float, ...]]:
    """Return all weights of several scores that are multiples of 1 / steps and sum to 1.

    Args:
        parts: Number of scores, at least 1.
        steps: Number of steps from 0 to 1, at least 1.

    Returns:
        Distinct weights, in lexicographic order: (steps + parts - 1) over (parts - 1) of them.

    >>> simplex(2, 2), len(simplex(3, 4))
    ([(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)], 15)
    """

    def counts(left: int, total: int) -> list[tuple[int, ...]]:
        if left == 1:
            return [(total,)]
        return [(first, *others) for first in range(total + 1) for others in counts(left - 1, total - first)]

    return [tuple(count / steps for count in vector) for vector in counts(parts, steps)]
