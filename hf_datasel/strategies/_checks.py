"""Validation of the arguments that strategies share."""

import operator
from collections.abc import Iterator
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import SelectionError
from hf_datasel.memory import available_memory

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]

_NUMBERS_PER_BLOCK = 1 << 22


def check_budget(function: str, budget: SupportsIndex, available: int, total: int, without: str) -> int:
    """Return the budget as a plain int.

    Args:
        function: Name of the strategy, for the error message.
        budget: Number of rows to select.
        available: Number of rows that can be selected.
        total: Number of all rows.
        without: What the other rows lack, for the error message.

    Raises:
        SelectionError: The budget is not a whole number, is negative, or is more than the available rows.

    >>> check_budget("top", 3, available=2, total=5, without="a finite score")
    Traceback (most recent call last):
    hf_datasel.errors.SelectionError: top: budget=3 is more than the 2 rows that can be selected (3 of 5 are without \
a finite score). Lower it.
    """
    try:
        rows = operator.index(budget)
    except TypeError:
        rows = -1
    if rows < 0 or isinstance(budget, bool):
        hint = " For a share of the rows, pass int(ratio * rows)." if isinstance(budget, float) else ""
        raise SelectionError(f"{function}: budget={budget!r} must be a whole number of rows, 0 or more.{hint}")
    if rows > available:
        missing = f" ({total - available:,} of {total:,} are without {without})" if available < total else ""
        raise SelectionError(
            f"{function}: budget={rows} is more than the {available:,} rows that can be selected{missing}. Lower it."
        )
    return rows


def check_quality(quality: npt.ArrayLike, n_rows: int, unit: str) -> npt.NDArray[np.float64]:
    """Return the quality of rows as a new float64 array, with NaN for rows that are never selected.

    Args:
        quality: One number per row; NaN and None are missing.
        n_rows: Number of rows.
        unit: What the rows are, in the plural, for the error message.

    Raises:
        SelectionError: The shape is another one, or a number is negative or infinite, for which a lazy greedy is not
            exact.
    """
    values = np.array(quality, dtype=np.float64)
    if values.shape != (n_rows,):
        raise SelectionError(
            f"quality needs one number for each of the {n_rows:,} {unit}, but has shape {values.shape}."
        )
    invalid = np.flatnonzero((values < 0) | np.isinf(values))
    if len(invalid):
        raise SelectionError(
            f"quality must be finite and >= 0, or NaN for rows that are never selected, but {len(invalid):,} of "
            f"{n_rows:,} are not (the first is {values[invalid[0]]} at position {invalid[0]}): a score could "
            "increase, and the lazy greedy would not be exact. Shift quality above 0, or set these rows to NaN."
        )
    return values


def check_scores(function: str, scores: npt.ArrayLike) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
    """Return scores as one flat array that can be sorted without rounding, and a mask of those that are not missing.

    Args:
        function: Name of the strategy, for the error message.
        scores: One number per row; NaN and None are missing. Integers and decimals that are not exact as float64 stay
            Python objects.

    Raises:
        SelectionError: The scores are not one flat array.

    >>> check_scores("top", [2**53 + 1, None, 2**53])
    (array([9007199254740993, None, 9007199254740992], dtype=object), array([ True, False,  True]))
    """
    values = np.asarray(scores)
    if values.dtype == np.float64 and not isinstance(scores, np.ndarray) and (np.abs(values) >= 2**53).any():
        values = np.asarray(scores, dtype=object)  # integers beside floats were rounded
    if values.ndim != 1:
        raise SelectionError(f"{function} takes one score per row, shape (n,), but got shape {values.shape}.")
    if values.dtype != object:
        return values, ~np.isnan(values) if values.dtype.kind == "f" else np.ones(len(values), dtype=bool)
    numbers = values.astype(np.float64)
    present = ~np.isnan(numbers)
    is_exact = all(value == number for value, number in zip(values[present], numbers[present].tolist(), strict=True))
    return (numbers if is_exact else values), present


def check_vectors(function: str, vectors: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return vectors as float32 or float64 of shape (n, d), and a mask of those with only finite numbers.

    Raises:
        SelectionError: The vectors are not of shape (n, d).

    >>> check_vectors("farthest_first", [[0.0, 1.0], [np.nan, 0.0]])[1]
    array([ True, False])
    """
    values = np.asarray(vectors)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float32 if values.dtype == np.float16 else np.float64)
    if values.ndim != 2:
        raise SelectionError(f"{function} takes one vector per row, shape (n, d), but got shape {values.shape}.")
    finite = np.ones(len(values), dtype=bool)
    for block in blocks(len(values), values.shape[1]):
        finite[block] = np.isfinite(values[block]).all(axis=1)
    return values, finite


def check_memory(function: str, rows: int, width: int, bytes_per_number: int) -> None:
    """Raise an error before work if an array of numbers that a strategy needs does not fit into memory.

    Args:
        function: Name of the strategy, for the error message.
        rows: Number of vectors.
        width: Numbers per vector.
        bytes_per_number: Bytes per number.

    Raises:
        SelectionError: Says how much memory is needed and how much is available.
    """
    required, available = rows * width * bytes_per_number, available_memory()
    if required > available:
        raise SelectionError(
            f"{function} needs {required / 1e9:,.1f} GB of memory for {rows:,} vectors of {width:,} numbers, and "
            f"{available / 1e9:,.1f} GB are available.",
            hint="Select within groups of rows, with Within(selector, Cluster(k=100)), from fewer rows, or with "
            "vectors of fewer dimensions.",
            cli_hint="Select within groups of rows, with --selector within, from fewer rows, or with vectors of fewer "
            "dimensions.",
        )


def blocks(rows: int, width: int, numbers: int = _NUMBERS_PER_BLOCK) -> Iterator[slice]:
    """Yield slices of consecutive rows, each of about `numbers` numbers.

    Args:
        rows: Number of rows.
        width: Numbers per row.
        numbers: Numbers per slice; a slice has at least one row.

    >>> list(blocks(5, 3, numbers=6))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(numbers // max(width, 1), 1)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
