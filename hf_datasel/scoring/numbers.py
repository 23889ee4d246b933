"""Columns of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["read_numbers"]


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
