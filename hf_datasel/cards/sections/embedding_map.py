"""Map of the embeddings of the pool, with the selected rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_datasel.analysis import plots
from hf_datasel.analysis.plots.theme import shortened
from hf_datasel.analysis.summaries import EmbeddingMap, embedding_map
from hf_datasel.cards.section import CardSource, FigureInfo, Section
from hf_datasel.selection import Selection

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_datasel.cards.facts import Facts

__all__ = ["SECTION"]


def _compute(source: CardSource) -> EmbeddingMap | None:
    """Map the vectors of the selection, or those of the dataset that the selector uses; None without any."""
    for name, column in _vectors(source.last, source.dataset):
        rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        lengths = np.unique(pc.list_value_length(column.drop_null()).to_numpy(zero_copy_only=False))
        if len(rows) < 3 or len(lengths) != 1 or lengths[0] < 2:
            continue  # no vectors, or of different lengths
        values = column.drop_null().flatten().to_numpy(zero_copy_only=False)
        matrix = np.asarray(values, dtype=np.float32).reshape(len(rows), -1)
        return embedding_map(name, matrix, np.flatnonzero(np.isin(rows, source.last.indices)))
    return None


def _vectors(selection: Selection, dataset: Dataset | None) -> Iterator[tuple[str, pa.Array]]:
    """Yield the columns of lists in the selection, and those in the dataset that the selector names or has used."""
    for name in selection.score_columns:
        column = selection.table.column(name).combine_chunks()
        if _is_list(column.type):
            yield name, column
    if dataset is None:
        return
    provenance = selection.provenance
    for name in (*provenance["columns_unverified"], provenance["selector"].get("vectors")):
        if isinstance(name, str) and name in dataset.column_names:
            column = dataset.select_columns([name]).with_format("arrow")[:].column(name).combine_chunks()
            if _is_list(column.type):
                yield name, column


def _is_list(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype))


def _text(facts: Facts, own: EmbeddingMap | None) -> str:
    return ""


def _figures(facts: Facts, own: EmbeddingMap | None) -> list[FigureInfo]:
    if own is None:
        return []
    return [FigureInfo("map", "Selected rows on a map of the pool", _alt(own), partial(plots.draw_map, own))]


def _alt(summary: EmbeddingMap) -> str:
    pool, selected = ([count for row in cells for count in row] for cells in (summary["pool"], summary["selected"]))
    return (
        f"Map of {shortened(summary['column'])} on two principal axes, which explain {summary['explained']:.0%} of "
        f"the variance: {sum(selected):,} selected rows as discs on the density of the {sum(pool):,} rows of the "
        f"pool. Selected rows are in {sum(map(bool, selected)):,} of the {sum(map(bool, pool)):,} grid cells with "
        "rows of the pool."
    )


SECTION = Section("embedding_map", "Selected rows", _text, _figures, _compute, EmbeddingMap | None)
