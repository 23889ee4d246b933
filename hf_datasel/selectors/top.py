"""The highest-scored rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_datasel.selectors.base import Round, Selector
from hf_datasel.strategies.top import top

__all__ = ["Top", "top_rows"]


@dataclass(frozen=True)
class Top(Selector):
    """The rows with the highest value in a column; ties go to the lower row number, nulls are never taken."""

    by: str

    def choose(self, round: Round) -> np.ndarray:
        rows = np.arange(len(round.rows))
        return top_rows(round, round.column(self.by), rows, name=self.by)


def top_rows(
    round: Round, values: np.ndarray, rows: np.ndarray, high: float | None = None, name: str = ""
) -> np.ndarray:
    """The budget's worth of highest values among the eligible `rows`, or as many as there are."""
    candidates = round.candidates(values, rows, high, name)
    kept = values[np.isin(rows, candidates)]
    chosen: np.ndarray = candidates[top(kept, min(round.budget, len(candidates)))]
    return chosen
