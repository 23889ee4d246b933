"""Read columns of vectors in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError
from hf_datasel.scoring.vector_files import zeros

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["ROWS_PER_BLOCK", "iter_vectors", "load_vectors", "vectors_from_arrow"]

ROWS_PER_BLOCK = 10_000
"""Number of rows whose vectors are read at once."""


def iter_vectors(data: Dataset, name: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Read a column of vectors in blocks.

    Args:
        data: The dataset.
        name: Name of the column.

    Yields:
        The index of the first row of the block, the vectors of the rows that have one (float32), and the reason of
        each row of the block ("" for a row with a vector).

    Raises:
        ColumnError: The column does not hold vectors, or a block holds vectors of several lengths.
    """
    column = data.select_columns([name]).with_format("arrow")
    for start in range(0, len(data), ROWS_PER_BLOCK):
        values = column[start : min(start + ROWS_PER_BLOCK, len(data))].column(name).combine_chunks()
        yield start, *vectors_from_arrow(values, name)


def load_vectors(data: Dataset, name: str) -> np.ndarray:
    """Read a column of vectors.

    Args:
        data: The dataset.
        name: Name of the column.

    Returns:
        Float32 of shape (rows, dimensions); all NaN for a row without a usable vector. Above 256 MiB it is mapped from
        a temporary file; see `zeros`.

    Raises:
        ColumnError: The column does not hold vectors, or holds vectors of several lengths.
        ScoreError: The disk has no space for the file.
    """
    result, missing = np.empty((len(data), 0), dtype=np.float32), [np.empty(0, dtype=np.int64)]
    for start, vectors, reasons in iter_vectors(data, name):
        missing.append(start + np.flatnonzero(reasons != ""))
        if not len(vectors):
            continue
        if not result.shape[1]:
            result = zeros((len(data), vectors.shape[1]), np.float32)
        if vectors.shape[1] != result.shape[1]:
            raise ColumnError(
                f"Column {name!r} holds vectors of {result.shape[1]:,} and of {vectors.shape[1]:,} numbers."
            )
        result[start + np.flatnonzero(reasons == "")] = vectors
    result[np.concatenate(missing)] = np.nan
    return result


def vectors_from_arrow(values: pa.Array, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Convert an Arrow array of lists to vectors.

    Args:
        values: Lists of numbers, or null.
        name: Name of the column, for messages.

    Returns:
        The vectors of the rows that have one, float32, and the reason of each row: "", "no_vector" or "not_finite".

    Raises:
        ColumnError: The values are not lists of numbers, or of several lengths.
    """
    reasons = np.full(len(values), "", dtype=object)
    reasons[values.is_null().to_numpy(zero_copy_only=False)] = "no_vector"
    if pa.types.is_null(values.type):
        return np.empty((0, 0), dtype=np.float32), reasons
    list_types = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_type(values.type) for is_type in list_types) or not _is_number(values.type.value_type):
        raise ColumnError(f"Column {name!r} holds {values.type}, and vectors are lists of numbers.")
    if values.null_count == len(values):
        return np.empty((0, 0), dtype=np.float32), reasons
    present = values.drop_null()
    flat = present.flatten()
    if not pa.types.is_float16(flat.type):  # which numpy converts, and old versions of pyarrow do not
        flat = flat.cast("float", safe=False)
    if len(flat) % max(len(present), 1) or len(set(present.value_lengths().to_pylist())) > 1:
        raise ColumnError(f"Column {name!r} holds vectors of several lengths.")
    vectors = np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float32).reshape(len(present), -1)
    is_finite = np.isfinite(vectors).all(axis=1)  # a null inside a list is NaN here
    reasons[np.flatnonzero(reasons == "")[~is_finite]] = "not_finite"
    return vectors if is_finite.all() else vectors[is_finite], reasons


def _is_number(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_floating(dtype) or pa.types.is_integer(dtype))
