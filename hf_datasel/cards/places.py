"""Where the chosen rows lie among the vectors of the pool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_datasel.analysis.summaries import EmbeddingMap, embedding_map
from hf_datasel.selection import Selection

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["map_of"]


def map_of(selection: Selection, dataset: Dataset | None) -> EmbeddingMap | None:
    """A map of the vectors that the selection holds, or of those of the dataset that it goes by; None without any."""
    for name, column in _vectors(selection, dataset):
        known = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        lengths = np.unique(pc.list_value_length(column.drop_null()).to_numpy(zero_copy_only=False))
        if len(known) < 3 or len(lengths) != 1 or lengths[0] < 2:
            continue  # no vectors, or none of the same length
        values = column.drop_null().flatten().to_numpy(zero_copy_only=False)
        matrix = np.asarray(values, dtype=np.float32).reshape(len(known), -1)
        return embedding_map(name, matrix, np.flatnonzero(np.isin(known, selection.indices)))
    return None


def _vectors(selection: Selection, dataset: Dataset | None) -> Iterator[tuple[str, pa.Array]]:
    """Columns of vectors: of the selection, and of the dataset those that the selector names or has relied on."""
    for name in selection.score_columns:
        column = selection.table.column(name).combine_chunks()
        if _is_list(column.type):
            yield name, column
    about = selection.provenance
    named = [*about["columns_unverified"], about["selector"].get("vectors")]
    for name in named if dataset is not None else ():
        if dataset is not None and isinstance(name, str) and name in dataset.column_names:
            column = dataset.select_columns([name]).with_format("arrow")[:].column(name).combine_chunks()
            if _is_list(column.type):
                yield name, column


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
