"""Columns of vectors, read in parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["ROWS_AT_ONCE", "all_vectors", "read_vectors", "vectors_in"]

ROWS_AT_ONCE = 10_000
"""Rows whose vectors are held in memory beside what is made of them."""


def vectors_in(data: Dataset, name: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Parts of a column: the number of the first row, the usable vectors, and the reason of each row.

    Raises:
        ColumnError: it holds no vectors, or some of another length.
    """
    column = data.select_columns([name]).with_format("arrow")
    for start in range(0, len(data), ROWS_AT_ONCE):
        values = column[start : min(start + ROWS_AT_ONCE, len(data))].column(name).combine_chunks()
        yield start, *read_vectors(values, name)


def all_vectors(data: Dataset, name: str) -> np.ndarray:
    """The whole column, float32 of shape (rows, dimensions); NaN throughout for a row without a usable vector.

    Raises:
        ColumnError: as `vectors_in` does.
    """
    whole = np.empty((len(data), 0), dtype=np.float32)
    for start, vectors, reasons in vectors_in(data, name):
        if not len(vectors):
            continue
        if not whole.shape[1]:
            whole = np.full((len(data), vectors.shape[1]), np.nan, dtype=np.float32)
        if vectors.shape[1] != whole.shape[1]:
            raise ColumnError(
                f"Column {name!r} holds vectors of {whole.shape[1]:,} and of {vectors.shape[1]:,} numbers."
            )
        whole[start + np.flatnonzero(reasons == "")] = vectors
    return whole


def read_vectors(values: pa.Array, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Float32 vectors of the rows that have one, and the reason of each row."""
    reasons = np.full(len(values), "", dtype=object)
    reasons[values.is_null().to_numpy(zero_copy_only=False)] = "no_vector"
    if pa.types.is_null(values.type):
        return np.empty((0, 0), dtype=np.float32), reasons
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(kind(values.type) for kind in kinds) or not _is_number(values.type.value_type):
        raise ColumnError(f"Column {name!r} holds {values.type}, and vectors are lists of numbers.")
    if values.null_count == len(values):
        return np.empty((0, 0), dtype=np.float32), reasons
    present = values.drop_null()
    flat = present.flatten().cast("float", safe=False)
    if len(flat) % max(len(present), 1) or len(set(present.value_lengths().to_pylist())) > 1:
        raise ColumnError(f"Column {name!r} holds vectors of several lengths.")
    vectors = np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float32).reshape(len(present), -1)
    finite = np.isfinite(vectors).all(axis=1)  # a null number is NaN here
    reasons[np.flatnonzero(reasons == "")[~finite]] = "not_finite"
    return vectors[finite], reasons


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
