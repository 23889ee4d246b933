"""Base class of selectors that rank rows by one score."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector, column_name, distinct_scores
from hf_datasel.rounds.views import GroupView
from hf_datasel.scores.mix import Mix
from hf_datasel.scoring.numbers import at_least
from hf_datasel.strategies.top import top

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Score

__all__ = ["RankedSelector", "top_rows"]


@dataclass(frozen=True)
class RankedSelector(Selector):
    """Selector of the rows with the highest values of one score. Ties go to the lower row number.

    Infinity is the highest value, and NaN is none. Integers and decimals are compared exactly.

    Attributes:
        below: Values from here on are excluded; None excludes none.
    """

    nested: ClassVar[bool] = True
    below: ClassVar[float | None] = None

    @property
    @abstractmethod
    def ranks_by(self) -> str | Score:
        """Name of a column of the dataset, or a score."""

    @property
    def value_column(self) -> str:
        """Name of the column that rows are ranked by."""
        return column_name(self.ranks_by)

    def scores(self) -> tuple[Score, ...]:
        """Return the scores that the selector computes, with the one that rows are ranked by."""
        by = self.ranks_by
        return distinct_scores([*super().scores(), *([] if isinstance(by, str) else [by])])

    def excluded(self, values: np.ndarray) -> tuple[np.ndarray, str]:
        """Return which rows are never selected because of their value, and the reason.

        Args:
            values: Float64 of shape (rows,).

        Returns:
            Bool of shape (rows,), and a reason such as `"with ifd >= 1"`.
        """
        if self.below is None:
            return np.zeros(len(values), dtype=bool), ""
        return at_least(values, self.below), f"with {self.value_column} >= {self.below:g}"

    def prepare(self, context: RoundContext) -> None:
        """Read what the selection is recorded with, besides the score, before rows are ranked; by default nothing.

        Args:
            context: Context of the round.
        """

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows with the highest values, highest first."""
        self.prepare(context)
        values = context.values(self.ranks_by, column=self.value_column)
        excluded, reason = self.excluded(values)
        context.exclude(reason, np.flatnonzero(excluded))
        rows = np.flatnonzero(~excluded)
        keys = context.sort_keys(self.ranks_by, column=self.value_column)[rows]
        self._warn_of_equal_values(context, values[rows], keys, context.eligible[rows] & ~np.isnan(values[rows]))
        return top_rows(context, values[rows], rows, self.value_column, keys)

    def _warn_of_equal_values(
        self, context: RoundContext, values: np.ndarray, keys: np.ndarray, candidates: np.ndarray
    ) -> None:
        """Warn if the values do not separate the candidates; in groups that happens, and means nothing."""
        count = int(candidates.sum())
        if count <= max(context.budget, 2) or isinstance(context, GroupView):
            return
        if (keys[candidates] == keys[candidates][0]).all():
            context.warn_once(
                f"{self.value_column} is {values[candidates][0]:g} for all {count:,} rows that {type(self).__name__} "
                "selects from: the selection is the first of them."
            )

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return how many rows have a higher value, and the lowest selected value."""
        values = context.values(self.ranks_by, column=self.value_column)
        excluded, reason = self.excluded(values)
        if excluded[row]:
            return [f"Rows {reason} are excluded."]
        candidates = context.eligible & ~np.isnan(values) & ~excluded
        if not candidates[row]:
            return []
        keys, by = context.sort_keys(self.ranks_by, column=self.value_column), self.ranks_by
        made_of = context.describe_mix(by, row) if isinstance(by, Mix) else ""
        higher = int((keys[candidates] > keys[row]).sum())
        lowest = values[selected].min() if len(selected) else np.nan
        name = self.value_column
        return [
            *([made_of] if made_of else []),
            f"Of the {int(candidates.sum()):,} rows to select from {higher:,} have a higher {name}; the lowest "
            f"that was selected has {lowest:.5g}.",
        ]


def top_rows(
    context: RoundContext, values: np.ndarray, rows: np.ndarray, name: str = "", keys: np.ndarray | None = None
) -> np.ndarray:
    """Return the eligible rows with the highest values, highest first, at most `context.budget`.

    Args:
        context: Context of the round.
        values: One value for each of `rows`; rows with NaN are excluded, and infinity is the highest value.
        rows: Row numbers.
        name: Name of the column, for the record.
        keys: Numbers in the order of the values, for values that float64 rounds; by default the values.
    """
    candidates = context.candidates(values, rows, name=name, infinite=True)
    is_candidate = np.zeros(len(context.eligible), dtype=bool)
    is_candidate[candidates] = True
    candidate_values = (values if keys is None else keys)[is_candidate[rows]]
    selected: np.ndarray = candidates[top(candidate_values, min(context.budget, len(candidates)))]
    return selected
