"""Deita: rows with a high complexity and quality, without near-duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_datasel import scores
from hf_datasel.errors import ShortfallError
from hf_datasel.rounds.cache import take_rows
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector, check_number, check_source, column_name
from hf_datasel.strategies.near_duplicates import near_duplicate_of, skip_near_duplicates

if TYPE_CHECKING:
    from hf_datasel.scores import Embedding
    from hf_datasel.scoring.base import Score

__all__ = ["Deita"]


@dataclass(frozen=True)
class Deita(Selector):
    """Rows with the highest complexity times quality, without near-duplicates of a better row.

    From the best row down, a row is selected if no row selected before has a cosine similarity above `threshold` with
    it. Any other score can be used: `Deita(by="ifd")`, `Deita(by=Reward("name or path"))`.

    Cost: two scorers of 13B in Deita's setting, and embeddings.

    Reference: Liu et al. 2024 (2312.15685), section 3; the threshold of 0.9 is that of paper and code. The selection
    is the one of their code with batches of one row; with larger batches their code selects other rows. A baseline of
    IterIT (2412.17365) and of Yu et al. 2024 (2409.11378).

    Args:
        by: Name of a numeric column, or a score such as `DeitaScore(complexity_model=..., quality_model=...)`.
        vectors: Column of vectors, or `Embedding(...)`.
        threshold: Cosine similarity, from -1 to 1, above which two rows are near-duplicates; 1 excludes no row.
    """

    by: str | Score = "deita"
    vectors: str | Embedding = "embedding"
    threshold: float = 0.9

    nested: ClassVar[bool] = True
    citation = scores.DeitaScore.citation

    def __post_init__(self) -> None:
        check_source(self, "by")
        check_source(self, "vectors", "Embedding")
        check_number(self, "threshold", -1, 1)

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the best rows that are no near-duplicates of each other, best first."""
        values, vectors = context.values(self.by), context.vectors(self.vectors)
        rows = context.candidates(values, np.arange(len(values)), name=column_name(self.by))
        rows = context.candidates(take_rows(vectors, rows), rows, name=column_name(self.vectors))
        budget = min(context.budget, len(rows))
        try:
            return context.pick(
                rows,
                lambda progress: skip_near_duplicates(
                    take_rows(vectors, rows), values[rows], budget, self.threshold, progress
                ),
            )
        except ShortfallError as error:
            selected: np.ndarray = rows[error.selected]
            context.exclude("near-duplicates of a better row", np.setdiff1d(rows, selected))
            return selected

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return a sentence on the selected row that this row is a near-duplicate of, if there is one."""
        vectors, ranks = context.vectors(self.vectors), np.flatnonzero(selected == row)
        if not np.isfinite(vectors[row]).all() or not vectors.shape[1]:
            return ["It has no vector."]
        compared = selected[: ranks[0]] if len(ranks) else selected
        duplicate = near_duplicate_of(vectors, compared, row, self.threshold)
        if duplicate is None:
            before = " before it" if len(ranks) else ""
            return [f"No row that was selected{before} has a cosine above {self.threshold:g} with it."]
        position, cosine = duplicate
        return [
            f"Row {context.row_number(position)}, which was selected, has a cosine of {cosine:.4g} with it: "
            f"near-duplicates above {self.threshold:g} are excluded."
        ]
