"""Filter: the share of the rows with the highest values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import RowFilter, check_number, check_source, column_name
from hf_datasel.scoring.numbers import at_least
from hf_datasel.strategies.top import top

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Score

__all__ = ["TopShare"]


_TOLERANCE = 1e-9
"""A share such as 0.29 of 100 rows is 28.999... rows in floating point."""


@dataclass(frozen=True)
class TopShare(RowFilter):
    """A share of the rows: those with the highest values in a column or of a score. Ties go to the lower row number.

    As a cheap first pass, a small model scores all rows, and the selector computes its own scores for the share that
    is kept: that a small model ranks rows much as a large one does is what Superfiltering (2402.00530) found. Give a
    score that the selector computes too a `column_prefix` here.

    Cost: that of the score.

    Args:
        by: Name of a numeric column, or a score.
        share: Share of the rows to keep, above 0 and up to 1, of those that the filters before it kept; rounded down,
            but at least one row. If fewer rows have a value below `high`, all of these are kept.
        high: Value from which on rows are excluded before the share is cut off, such as 1 for an IFD; None for no
            bound.
    """

    by: str | Score
    share: float
    high: float | None = None

    def __post_init__(self) -> None:
        check_source(self, "by")
        check_number(self, "share", 0, 1, exclude_low=True)
        if self.high is not None:
            check_number(self, "high", -math.inf)

    def keep(self, context: RoundContext, rows: np.ndarray) -> np.ndarray:
        """Return the rows with the highest values, and count the others as excluded."""
        name = column_name(self.by)
        values = context.values(self.by, rows)
        has_value = ~np.isnan(values)
        context.exclude(f"without {name}", rows[~has_value])
        if self.high is not None:
            context.exclude(f"with {name} >= {self.high:g}", rows[at_least(values, self.high)])
            has_value &= ~at_least(values, self.high)
        candidates = np.flatnonzero(has_value)
        budget = min(max(math.floor(self.share * len(rows) + _TOLERANCE), 1), len(candidates))
        kept: np.ndarray = rows[candidates[top(values[candidates], budget)]]
        context.exclude(f"below the highest {self.share:.4g} of {name}", np.setdiff1d(rows[has_value], kept))
        return kept

    def describe(self) -> str:
        """Return which rows are kept, in a few words."""
        below = "" if self.high is None else f" below {self.high:g}"
        return f"highest {self.share:.4g} of {column_name(self.by)}{below}"

    def explain(self, context: RoundContext, kept_rows: np.ndarray, row: int) -> list[str]:
        """Return a sentence with the value of the row, and the lowest value that was kept."""
        name = column_name(self.by)
        value, *kept = context.values(self.by, np.array([row, *kept_rows]))
        if np.isnan(value):
            return []
        lowest = f"; the lowest that was kept is {min(kept):.5g}" if kept else ""
        return [f"Its {name} is {value:.5g}{lowest}."]
