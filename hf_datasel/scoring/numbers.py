"""Columns of numbers."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["at_least", "is_identifier", "read_numbers"]


def is_identifier(column: str) -> bool:
    """Return whether the numbers of a column identify rows or groups, so that their mean or rank has no meaning.

    These are columns whose name ends in `_id`, such as `cluster_id`, and the row numbers in `duplicate_of`.

    >>> is_identifier("old_cluster_id"), is_identifier("duplicate_of"), is_identifier("duplicate_rows")
    (True, True, False)

    Args:
        column: Name of the column.
    """
    return column.endswith(("_id", "duplicate_of"))


def at_least(values: Any, bound: float) -> Any:
    """Return whether values are at least a bound; false for NaN.

    Scores are float32, and what float32 makes of a bound counts as the bound: 9 of 10 right answers are a rate of at
    least 0.9, and not below it, although that rate is 0.89999998.

    >>> at_least(np.array([0.9, 0.89], dtype=np.float32).astype(np.float64), 0.9)
    array([ True, False])

    Args:
        values: One number, or an array of them.
        bound: The bound.
    """
    return (values >= bound) | (values == _single(bound))


@lru_cache
def _single(number: float) -> float:
    """Return a number as float32 rounds it; the number itself if float32 cannot hold it."""
    with np.errstate(over="ignore"):
        single = float(np.float32(number))
    return single if abs(single - number) <= 1e-7 * abs(number) else number


def read_numbers(dataset: Dataset, name: str, reader: str = "a selection") -> np.ndarray:
    """Return a numeric column, float64 of shape (rows,); NaN where it is null.

    Args:
        dataset: Dataset with the column.
        name: Name of the column.
        reader: What needs the numbers, for the error message.

    Raises:
        ColumnError: The column holds no numbers.
    """
    values = dataset.select_columns([name]).with_format("arrow")[:].column(name)
    try:
        if not _is_number(values.type):
            raise ValueError("a cast would read text as numbers")
        return np.asarray(values.cast("double", safe=False).to_numpy(), dtype=np.float64)
    except (ValueError, NotImplementedError) as error:  # pyarrow raises both for types it cannot cast
        raise ColumnError(f"Column {name!r} holds {values.type}, and {reader} needs numbers.") from error


def _is_number(type_: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_floating(type_)
        or types.is_integer(type_)
        or types.is_decimal(type_)
        or types.is_boolean(type_)
        or types.is_null(type_)
    )
