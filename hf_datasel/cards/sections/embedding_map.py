"""Map of the embeddings of the pool, with the selected rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.analysis import plots
from hf_datasel.analysis.plots.theme import shortened
from hf_datasel.analysis.summaries import EmbeddingMap, embedding_map
from hf_datasel.cards.section import CardSource, FigureInfo, Section
from hf_datasel.errors import ColumnError
from hf_datasel.scoring.vector_sample import finite_rows
from hf_datasel.scoring.vectors import load_vectors
from hf_datasel.selection import Selection

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_datasel.cards.facts import Facts

__all__ = ["SECTION"]


def _compute(source: CardSource) -> EmbeddingMap | None:
    """Map the vectors of the selection, or those of the dataset that the selector uses; None without any."""
    for data, name in _columns(source.last, source.dataset):
        try:
            vectors = load_vectors(data, name)
        except ColumnError:  # no vectors, or of different lengths
            continue
        if vectors.shape[1] >= 2 and np.count_nonzero(finite_rows(vectors)) >= 3:
            return embedding_map(name, vectors, np.unique(source.last.indices))
    return None


def _columns(selection: Selection, dataset: Dataset | None) -> Iterator[tuple[Dataset, str]]:
    """Yield the score columns of the selection, and the columns of the dataset that it names or has used."""
    from datasets import Dataset

    for name in selection.score_columns:
        yield Dataset(selection.table.select([name])), name
    if dataset is None:
        return
    provenance = selection.provenance
    for name in (*provenance["columns_unverified"], provenance["selector"].get("vectors")):
        if isinstance(name, str) and name in dataset.column_names:
            yield dataset, name


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
