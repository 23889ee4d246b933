"""Complex and good rows that are no near copies of each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_datasel import scores
from hf_datasel.errors import ShortfallError
from hf_datasel.rounds.cache import taken
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import Selector, check_number, check_source, column_of
from hf_datasel.strategies.near_duplicates import near_copy_of, skip_near_copies

if TYPE_CHECKING:
    from hf_datasel.scores import Embedding
    from hf_datasel.scoring.base import Score

__all__ = ["Deita"]


@dataclass(frozen=True)
class Deita(Selector):
    """The rows with the highest complexity times quality, leaving out near copies of a better one.

    From the best row down, a row is kept if no row kept before has a cosine similarity above `threshold` with it. Any
    other score will do: `Deita(by="ifd")`, `Deita(by=Reward("name or path"))`.

    Reference: Liu et al. 2024 (2312.15685), section 3; the threshold of 0.9 is the paper's and the code's. This is
    what their code does with batches of one row; with larger ones it keeps other rows. A baseline of IterIT
    (2412.17365) and of Yu et al. 2024 (2409.11378).
    """

    by: str | Score = "deita"
    """Column, or a score such as `Deita(complexity_model=..., quality_model=...)` of `hf_datasel.scores`."""
    vectors: str | Embedding = "embedding"
    """Column of vectors, or `Embedding(...)`."""
    threshold: float = 0.9
    """Cosine from -1 to 1; at 1 every row is kept."""

    nested: ClassVar[bool] = True
    citation = scores.Deita.citation

    def __post_init__(self) -> None:
        check_source(self, "by")
        check_source(self, "vectors", "Embedding")
        check_number(self, "threshold", -1, 1)

    def choose(self, round: Round) -> np.ndarray:
        values, vectors = round.values(self.by), round.vectors(self.vectors)
        name = column_of(self.vectors)
        rows = round.candidates(values, np.arange(len(values)), name=self._name)
        rows = round.candidates(taken(vectors, rows), rows, name=name)
        budget = min(round.budget, len(rows))
        try:
            return round.pick(
                rows,
                lambda progress: skip_near_copies(
                    taken(vectors, rows), values[rows], budget, self.threshold, progress
                ),
            )
        except ShortfallError as error:
            kept: np.ndarray = rows[error.chosen]
            round.leave_out("near copies of a better row", np.setdiff1d(rows, kept))
            return kept

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        vectors, at = round.vectors(self.vectors), np.flatnonzero(chosen == row)
        if not np.isfinite(vectors[row]).all() or not vectors.shape[1]:
            return ["It has no vector."]
        found = near_copy_of(vectors, chosen[: at[0]] if len(at) else chosen, row, self.threshold)
        if found is None:
            before = " before it" if len(at) else ""
            return [f"No row that was chosen{before} has a cosine above {self.threshold:g} with it."]
        other = round.row_number(found[0])
        return [
            f"Row {other}, which was chosen, has a cosine of {found[1]:.4g} with it: near copies above "
            f"{self.threshold:g} are left out."
        ]

    @property
    def _name(self) -> str:
        return column_of(self.by)
