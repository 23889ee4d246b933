"""Weighted: the rows of another selector, with a weight for each."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_datasel.errors import ConfigError, Interrupted, SelectionError, check_option
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.run import run_selector
from hf_datasel.rounds.selector import Selector, check_number, check_source, column_name
from hf_datasel.strategies.weights import row_weights

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Score

__all__ = ["Weighted"]


@dataclass(frozen=True)
class Weighted(Selector):
    """Rows that another selector selects, each with a weight from a column or a score.

    `SelectiveSFTTrainer` multiplies the losses of a row by its weight; the number of tokens that the sum is divided by
    stays that of all rows. The weights are saved with the selection, and `Selection.apply` and published rows have
    them in the column `selection_weight`. With weight 1 for every row, training equals that without weights bit for
    bit.

    The rows are those of `method`, in its order, in each of its rounds. It combines with other selectors: in
    `Chain([...], Weighted(...))` the rows that filters keep are weighted, and in `Within(Weighted(...))` each group is
    scaled by itself.

    Rows without a number in the column are excluded. Source: importance weighting, as `sample_weight` of Keras and of
    `SGDClassifier` in scikit-learn, whose losses are not divided by the sum of the weights either.

    >>> from hf_datasel.selectors import Random
    >>> Weighted(Random(), by="quality", scale="rank", low=0.2).low
    0.2

    Cost: that of the method, and of the weights for the selected rows.

    Args:
        method: Selector that selects the rows.
        by: Column of numbers, or a score, that the weights are computed from; higher numbers are higher weights.
        scale: How numbers become weights. `"none"`: they are weights from 0 to 1 already. `"minmax"`: linear from the
            lowest selected row to the highest. `"rank"`: linear in the rank among the selected rows; equal numbers
            share their mean rank. If all selected rows have the same number, their weight is 1.
        low: Weight of the lowest row with `scale="minmax"` or `"rank"`; the highest one has weight 1.
    """

    method: Selector
    by: str | Score
    scale: Literal["none", "minmax", "rank"] = "none"
    low: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.method, Selector):
            name = self.method if isinstance(self.method, str) else "random"
            raise ConfigError(
                f"Weighted(method={self.method!r}): it has to be a selector, such as Random(), which recipes write as "
                f"method: {{selector: {name}}}."
            )
        check_source(self, "by")
        check_option(f"Weighted(scale={self.scale!r})", self.scale, ("none", "minmax", "rank"))
        check_number(self, "low", 0, 1)
        if self.low and self.scale == "none":
            raise ConfigError(
                f"Weighted(low={self.low:g}) is the lowest weight of scaled numbers. Set scale='minmax' or 'rank', or "
                "remove it."
            )
        object.__setattr__(self, "reselects", self.method.reselects)
        object.__setattr__(self, "nested", self.method.nested)
        object.__setattr__(self, "keeps_all", self.method.keeps_all)

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        """Return the rounds of `method`."""
        return self.method.plan(total_budget, num_epochs, pool_size)

    def check_training(self, args: Any) -> None:
        """Raise the errors that `method` raises for these training arguments."""
        self.method.check_training(args)

    def sets_weights(self) -> bool:
        """Return True."""
        return True

    def check_columns(self, context: RoundContext) -> None:
        """Raise if the column of the weights is missing or empty, or holds no numbers, or some that are no weights."""
        super().check_columns(context)
        if not isinstance(self.by, str):
            return
        context.record.caller = type(self).__name__
        rows = np.flatnonzero(context.eligible)
        values = context.column(self.by, rows)
        if len(rows) and not np.isfinite(values).any():
            raise SelectionError(
                f"Weighted(by={self.by!r}): none of the {len(rows):,} rows that can be selected has a number in this "
                "column, so that no row has a weight."
            )
        self._check_range(context, rows, values)

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows of `method`, and set their weights.

        Raises:
            SelectionError: A row has a number that is no weight, or a selected row has none.
        """
        with_numbers = self._with_numbers(context)
        if isinstance(self.by, str) and not context.record.is_trial:
            rows = np.flatnonzero(with_numbers.eligible)
            self._check_range(context, rows, context.column(self.by, rows))
        try:
            rows = run_selector(self.method, with_numbers)
        except Interrupted as stop:
            self._weigh(context, stop.selected)
            raise
        if not context.record.is_trial:
            self._weigh(context, rows)
        return rows

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return the sentences of `method`."""
        return self.method.explain(self._with_numbers(context), selected, row)

    def _with_numbers(self, context: RoundContext) -> RoundContext:
        """Return the context in which only rows with a number are eligible, if a column has the numbers."""
        if not isinstance(self.by, str):
            return context  # scores are computed for the selected rows only
        rows = np.flatnonzero(context.eligible)
        view = copy.copy(context)
        view.eligible = np.zeros_like(context.eligible)
        view.eligible[context.candidates(context.column(self.by, rows), rows, name=self.by)] = True
        return view

    def _weigh(self, context: RoundContext, rows: np.ndarray) -> None:
        if not len(rows):
            return
        context.record.caller = type(self).__name__
        values, name = context.values(self.by, rows), column_name(self.by)
        missing = np.flatnonzero(~np.isfinite(values))
        if len(missing):
            raise SelectionError(
                f"Weighted(by={name!r}): {len(missing):,} of the {len(rows):,} selected rows have no number, for "
                f"example row {context.row_number(rows[missing[0]]):,}, so that they have no weight. Compute "
                f"{name!r} before, and name the column: rows without a number in a column are excluded."
            )
        self._check_range(context, rows, values)
        context.set_weights(rows, row_weights(values, self.scale, self.low))

    def _check_range(self, context: RoundContext, rows: np.ndarray, values: np.ndarray) -> None:
        """Raise if one of the numbers is no weight, unless they are scaled."""
        wrong = np.flatnonzero((values < 0) | (values > 1)) if self.scale == "none" else np.empty(0, dtype=np.int64)
        if len(wrong):
            more = f", and {len(wrong) - 1:,} more rows are outside this range" if len(wrong) > 1 else ""
            raise SelectionError(
                f"Weighted(by={column_name(self.by)!r}): row {context.row_number(rows[wrong[0]]):,} has "
                f"{values[wrong[0]]:g}, but a weight is a number from 0 to 1{more}. Change the numbers,",
                "or set scale='rank' or 'minmax'.",
                'or set "scale": "rank" or "minmax" in the settings of weighted.',
            )
