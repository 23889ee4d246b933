"""Rows whose value is closest to a target."""

from __future__ import annotations

import logging
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

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Closest(Selector):
    """Rows whose value in a column or of a score is closest to a target, such as prompts of medium difficulty.

    Values above and below the target count alike. Ties go to the lower row number. Rows without a value (null or NaN)
    are never selected; infinite values come last. To exclude rows beyond a distance, put `InRange` before it in
    `Chain`.

    `Closest(by="pass_rate", target=0.5)` selects the prompts whose answers are right about half of the time.

    Cost: that of the score.

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

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows with the closest values, closest first."""
        values = context.values(self.by)
        finite = values[context.eligible & np.isfinite(values)]
        if len(finite) and not finite.min() <= self.target <= finite.max():
            logger.warning(
                "Closest: the target %g is outside the range of %s, %.5g to %.5g: the %s values are selected.",
                self.target,
                column_name(self.by),
                finite.min(),
                finite.max(),
                "highest" if self.target > finite.max() else "lowest",
            )
        return top_rows(context, -_distances(values, self.target), np.arange(len(values)), column_name(self.by))

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return how many rows are closer, and the largest distance that was selected."""
        values = context.values(self.by)
        distances = _distances(values, self.target)
        candidates = context.eligible & ~np.isnan(distances)
        if not candidates[row]:
            return []
        closer = int((distances[candidates] < distances[row]).sum())
        largest = distances[selected].max() if len(selected) else np.nan
        return [
            f"Its {column_name(self.by)} is {values[row]:.5g}, at a distance of {distances[row]:.5g} from the target "
            f"{self.target:g}. Of the {int(candidates.sum()):,} rows to select from, {closer:,} are closer; the "
            f"largest distance that was selected is {largest:.5g}."
        ]


def _distances(values: np.ndarray, target: float) -> np.ndarray:
    """Return the distance of each value to the target; one above it that is equal to one below but for rounding is it.

    Args:
        values: Float64 of shape (rows,). If float32 holds all of them, they are taken to be rounded to float32.
        target: The target.
    """
    distances: np.ndarray = np.abs(values - target)
    finite = values[np.isfinite(values)]
    with np.errstate(over="ignore"):
        is_single = (finite.astype(np.float32) == finite).all() and (finite != np.floor(finite)).any()
    is_above = np.isfinite(values) & (values > target)
    below = np.unique(target - finite[finite < target])
    if not len(below) or not is_above.any():
        return distances
    above = distances[is_above]
    right = np.searchsorted(below, above).clip(1, len(below) - 1) if len(below) > 1 else np.zeros(len(above), np.int64)
    left = np.maximum(right - 1, 0)
    nearest = np.where(above - below[left] <= below[right] - above, below[left], below[right])
    tolerance = (abs(target) + above) * np.finfo(np.float32 if is_single else np.float64).eps
    distances[is_above] = np.where(np.abs(nearest - above) <= tolerance, nearest, above)
    return distances
