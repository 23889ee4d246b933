"""Filter: no near-duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.errors import Interrupted
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import RowFilter, check_number, check_source, column_name
from hf_datasel.selectors.deita import Deita
from hf_datasel.strategies.near_duplicates import near_duplicate_of, skip_near_duplicates

if TYPE_CHECKING:
    from hf_datasel.scores.embedding import Embedding
    from hf_datasel.scoring.base import Score

__all__ = ["NoNearDuplicates"]


@dataclass(frozen=True)
class NoNearDuplicates(RowFilter):
    """Of rows whose vectors have a cosine similarity above `threshold`, only the one with the highest `by`.

    Rows are processed from the highest value down, without `by` in dataset order, and each is kept unless it is a
    near-duplicate of a row that was kept before. Ties go to the lower row number. Rows without a vector, or without a
    value of `by`, are excluded.

    Cost: embeddings.

    Reference: the Repr Filter of Deita, Liu et al. 2024 (2312.15685), without its budget.

    Args:
        vectors: Column of vectors, or `Embedding(...)`.
        threshold: Cosine similarity, from -1 to 1, above which two rows are near-duplicates.
        by: Column or score that decides which of two near-duplicates is kept; None keeps the one with the lower row
            number.
    """

    vectors: str | Embedding = "embedding"
    threshold: float = 0.9
    by: str | Score | None = None

    citation = Deita.citation

    def __post_init__(self) -> None:
        check_source(self, "vectors", "Embedding")
        check_number(self, "threshold", -1, 1)
        if self.by is not None:
            check_source(self, "by")

    def keep(self, context: RoundContext, rows: np.ndarray) -> np.ndarray:
        """Return the rows that are no near-duplicate of a better one, ascending."""
        vectors, values = self._vectors_and_values(context, rows)
        vector_name = column_name(self.vectors)
        has_vector = np.isfinite(vectors).all(axis=1) if vectors.shape[1] else np.zeros(len(rows), dtype=bool)
        context.exclude(f"without {vector_name}", rows[~has_vector])
        if self.by is not None:
            context.exclude(f"without {column_name(self.by)}", rows[~np.isfinite(values)])
        if not has_vector.any():
            return np.empty(0, dtype=np.int64)
        unique = np.sort(rows[self._unique_positions(context, vectors, values)])
        compared = rows[has_vector & np.isfinite(values)]
        duplicates = compared[~np.isin(compared, unique, assume_unique=True)]
        context.exclude(f"near-duplicates by {vector_name}", duplicates)
        return unique

    def describe(self) -> str:
        """Return which rows are kept, in a few words."""
        kept = "" if self.by is None else f", highest {column_name(self.by)} kept"
        return f"no near-duplicates by {column_name(self.vectors)} (cosine > {self.threshold:g}{kept})"

    def explain(self, context: RoundContext, kept_rows: np.ndarray, row: int) -> list[str]:
        """Return a sentence on the row that this row is a near-duplicate of."""
        rows = np.append(kept_rows, row)
        vectors, values = self._vectors_and_values(context, rows)
        if not np.isfinite(vectors[-1]).all() or not np.isfinite(values[-1]) or not vectors.shape[1]:
            return []
        order = np.argsort(-values[:-1], kind="stable")
        duplicate = near_duplicate_of(vectors, order, len(rows) - 1, self.threshold)
        if duplicate is None:
            return []
        position, cosine = duplicate
        other = context.row_number(rows[position])
        sentence = f"Its {column_name(self.vectors)} has a cosine of {cosine:.4g} with that of row {other:,}"
        if self.by is None:
            return [f"{sentence}."]
        name = column_name(self.by)
        return [f"{sentence}, whose {name} is {values[position]:.5g}; its own is {values[-1]:.5g}."]

    def _vectors_and_values(self, context: RoundContext, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        vectors = context.vectors(self.vectors, rows)
        values = np.zeros(len(rows)) if self.by is None else context.values(self.by, rows)
        return vectors, values

    def _unique_positions(self, context: RoundContext, vectors: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return the positions of the rows that are kept.

        Raises:
            Interrupted: Ctrl-C was pressed; holds no rows, since nothing has been selected yet.
        """
        with context.progress_bar(len(vectors), "row") as bar:
            try:
                return skip_near_duplicates(
                    vectors, values, None, self.threshold, progress=lambda done: bar.update(done - bar.n)
                )
            except Interrupted:
                raise Interrupted(np.empty(0, dtype=np.int64)) from None
