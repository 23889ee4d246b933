"""Digests of the values of a column, and of rows."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["column_digest", "ids_from_arrow"]


def column_digest(dataset: Dataset, name: str) -> str:
    """Return a digest of the values of a column, in order, that does not depend on how they are stored.

    Equal numbers of different types have the same digest: 2 and 2.0, but not 0.1 as float32 and as float64.

    Args:
        dataset: The dataset.
        name: Name of the column.

    Returns:
        Hexadecimal BLAKE2b digest of 16 bytes.
    """
    digest = hashlib.blake2b(digest_size=16)
    for table in dataset.select_columns([name]).with_format("arrow").iter(batch_size=10_000):
        _add(digest, table.column(name).combine_chunks())
    return digest.hexdigest()


def ids_from_arrow(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return ids of rows, uint8 of shape (rows, 32); a copy only of several chunks, or another type.

    Args:
        column: Ids of the type `binary(32)`, or `binary` of this length, without nulls.
    """
    if column.type != pa.binary(32):
        column = column.cast(pa.binary(32))
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [
        np.frombuffer(chunk.buffers()[1], dtype=np.uint8)[32 * chunk.offset : 32 * (chunk.offset + len(chunk))]
        for chunk in chunks
        if len(chunk)
    ]
    joined = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype=np.uint8), *parts])
    return joined.reshape(-1, 32)


def _add(digest: Any, values: pa.Array) -> None:
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = values.value_lengths().cast("double").to_numpy(zero_copy_only=False)
        digest.update(np.nan_to_num(lengths, nan=-1).tobytes())  # -1 for null
        _add(digest, values.flatten())
    elif pa.types.is_floating(kind) or pa.types.is_integer(kind):
        if not pa.types.is_float16(kind):  # which numpy converts, and old versions of pyarrow do not
            values = values.cast("double", safe=False)
        numbers = np.array(values.to_numpy(zero_copy_only=False), dtype="<f8")
        numbers[np.isnan(numbers)] = np.nan  # one bit pattern for all NaNs
        digest.update(numbers.tobytes())
    else:
        digest.update(json.dumps(values.to_pylist(), default=str).encode())
