"""Rows whose value is closest to a target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.ranked_selector import top_rows
from hf_datasel.rounds.selector import Selector, check_number, check_source, column_name

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Score

__all__ = ["Closest"]


@dataclass(frozen=True)
class Closest(Selector):
    """Rows whose value in a column or of a score is closest to a target, such as prompts of medium difficulty.

    Values above and below the target count alike. Ties go to the lower row number. Rows without a value (null or NaN)
    are never selected; infinite values come last. To exclude rows beyond a distance, put `InRange` before it in
    `Chain`.

    `Closest(by="pass_rate", target=0.5)` selects the prompts whose answers are right about half of the time.

    Args:
        by: Name of a numeric column, or a score.
        target: The value that rows should have.
    """

    by: str | Score
    target: float

    nested: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_source(self, "by")
        check_number(self, "target", -math.inf)

    def _closeness(self, context: RoundContext) -> np.ndarray:
        """Return minus the distance of each value to the target, float64; NaN without a value."""
        closeness: np.ndarray = -np.abs(context.values(self.by) - self.target)
        return closeness

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows with the closest values, closest first."""
        closeness = self._closeness(context)
        return top_rows(context, closeness, np.arange(len(closeness)), column_name(self.by))

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return how many rows are closer, and the largest distance that was selected."""
        closeness = self._closeness(context)
        candidates = context.eligible & ~np.isnan(closeness)
        if not candidates[row]:
            return []
        closer = int((closeness[candidates] > closeness[row]).sum())
        largest = -closeness[selected].min() if len(selected) else np.nan
        return [
            f"Its {column_name(self.by)} is {-closeness[row]:.5g} from {self.target:g}. Of the "
            f"{int(candidates.sum()):,} rows to select from {closer:,} are closer; the largest distance that was "
            f"selected is {largest:.5g}."
        ]
