"""Filter of near-duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.errors import Interrupted
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import RowFilter, check_number, check_source, column_of
from hf_datasel.selectors.deita import Deita
from hf_datasel.strategies.near_duplicates import near_copy_of, skip_near_copies

if TYPE_CHECKING:
    from hf_datasel.scores.embedding import Embedding
    from hf_datasel.scoring.base import Score

__all__ = ["NoNearCopies"]


@dataclass(frozen=True)
class NoNearCopies(RowFilter):
    """Of rows whose vectors have a cosine above `threshold`, only the one with the highest `by`.

    Rows are gone through from the highest value down, without `by` in their order, and each is kept unless it is a
    near copy of one that was kept before. Ties go to the lower row number. Rows without a vector, or without a value
    of `by`, are left out.

    Reference: the Repr Filter of Liu et al. 2024 (2312.15685), Deita, without its budget.
    """

    vectors: str | Embedding = "embedding"
    """Column of vectors, or `Embedding(...)`."""
    threshold: float = 0.9
    by: str | Score | None = None
    """Which of near copies stays: a column, or a score."""

    citation = Deita.citation

    def __post_init__(self) -> None:
        check_source(self, "vectors", "Embedding")
        check_number(self, "threshold", -1, 1)
        if self.by is not None:
            check_source(self, "by")

    def keep(self, round: Round, rows: np.ndarray) -> np.ndarray:
        vectors, values, names = self._compared(round, rows)
        absent = ~np.isfinite(vectors).all(axis=1) if vectors.shape[1] else np.ones(len(rows), dtype=bool)
        round.leave_out(f"without {names[0]}", rows[absent])
        if self.by is not None:
            round.leave_out(f"without {names[1]}", rows[~np.isfinite(values)])
        if absent.all():
            return np.empty(0, dtype=np.int64)
        kept = np.sort(rows[self._best(round, vectors, values)])
        seen = rows[~absent & np.isfinite(values)]
        round.leave_out(f"near copies by {names[0]}", seen[~np.isin(seen, kept, assume_unique=True)])
        return kept

    def explain(self, round: Round, kept: np.ndarray, row: int) -> list[str]:
        rows = np.append(kept, row)
        vectors, values, names = self._compared(round, rows)
        if not np.isfinite(vectors[-1]).all() or not np.isfinite(values[-1]) or not vectors.shape[1]:
            return []
        order = np.argsort(-values[:-1], kind="stable")
        found = near_copy_of(vectors, order, len(kept), self.threshold)
        if found is None:
            return []
        other = round.row_number(kept[found[0]])
        higher = "" if self.by is None else f", which has {names[1]} {values[found[0]]:.5g}, and it {values[-1]:.5g}"
        return [f"Its {names[0]} has a cosine of {found[1]:.4g} with that of row {other:,}{higher}."]

    def _compared(self, round: Round, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
        """Vectors and values of rows, and what both are called."""
        vectors = round.vectors(self.vectors, rows)
        values = np.zeros(len(rows)) if self.by is None else round.values(self.by, rows)
        return vectors, values, (column_of(self.vectors), "" if self.by is None else column_of(self.by))

    def _best(self, round: Round, vectors: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Positions that are kept.

        Raises:
            Interrupted: Ctrl-C; with no rows, since what was kept by then has not been chosen from yet.
        """
        with round.bar(len(vectors), "row") as bar:
            try:
                return skip_near_copies(
                    vectors, values, None, self.threshold, progress=lambda done: bar.update(done - bar.n)
                )
            except Interrupted:
                raise Interrupted(np.empty(0, dtype=np.int64)) from None
