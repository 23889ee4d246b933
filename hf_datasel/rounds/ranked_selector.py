"""Base class of selectors that rank rows by one score."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import Selector, column_of
from hf_datasel.strategies.top import top

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Score

__all__ = ["Ranked", "top_rows"]


@dataclass(frozen=True)
class Ranked(Selector):
    """A selector that takes the rows with the highest values of one score. Ties go to the lower row number."""

    nested: ClassVar[bool] = True
    below: ClassVar[float | None] = None
    """Values from here on are left out."""

    @property
    @abstractmethod
    def ranks_by(self) -> str | Score:
        """A column of the dataset, or a score."""

    @property
    def value_column(self) -> str:
        """The column that is compared."""
        return column_of(self.ranks_by)

    def refused(self, values: np.ndarray) -> tuple[np.ndarray, str]:
        """Rows that are never chosen, bool of shape (rows,), and in words why."""
        if self.below is None:
            return np.zeros(len(values), dtype=bool), ""
        return values >= self.below, f"with {self.value_column} >= {self.below:g}"

    def choose(self, round: Round) -> np.ndarray:
        values = round.values(self.ranks_by, column=self.value_column)
        refused, why = self.refused(values)
        round.leave_out(why, np.flatnonzero(refused))
        rows = np.flatnonzero(~refused)
        return top_rows(round, values[rows], rows, self.value_column)

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        values = round.values(self.ranks_by, column=self.value_column)
        refused, why = self.refused(values)
        if refused[row]:
            return [f"Rows {why} are left out."]
        could = round.eligible & np.isfinite(values) & ~refused
        if not could[row]:
            return []
        higher, lowest = int((values[could] > values[row]).sum()), values[chosen].min() if len(chosen) else np.nan
        name = self.value_column
        return [
            f"Of the {int(could.sum()):,} rows to choose from {higher:,} have a higher {name}; the lowest that was "
            f"chosen has {lowest:.5g}."
        ]


def top_rows(round: Round, values: np.ndarray, rows: np.ndarray, name: str = "") -> np.ndarray:
    """The budget's worth of highest values among the eligible `rows`, or as many as there are."""
    candidates = round.candidates(values, rows, name=name)
    kept = values[np.isin(rows, candidates, assume_unique=True)]
    chosen: np.ndarray = candidates[top(kept, min(round.budget, len(candidates)))]
    return chosen
