"""The highest-scored rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_datasel.selectors.base import Selector, check_source
from hf_datasel.selectors.round import Round
from hf_datasel.strategies.top import top

if TYPE_CHECKING:
    from hf_datasel.scores import Score

__all__ = ["Top", "top_rows"]


@dataclass(frozen=True)
class Top(Selector):
    """The rows with the highest value in a column, or of a score; ties go to the lower row number, nulls never go in.

    `Top(by="ifd")` reads a column; `Top(by=Loss("Qwen/Qwen3-0.6B"))` computes the score.
    """

    by: str | Score

    nested: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_source(self, "by")

    def choose(self, round: Round) -> np.ndarray:
        rows = np.arange(len(round.rows))
        name = self.by if isinstance(self.by, str) else self.by.value_column
        return top_rows(round, round.values(self.by), rows, name=name)


def top_rows(
    round: Round, values: np.ndarray, rows: np.ndarray, high: float | None = None, name: str = ""
) -> np.ndarray:
    """The budget's worth of highest values among the eligible `rows`, or as many as there are."""
    candidates = round.candidates(values, rows, high, name)
    kept = values[np.isin(rows, candidates, assume_unique=True)]
    chosen: np.ndarray = candidates[top(kept, min(round.budget, len(candidates)))]
    return chosen
