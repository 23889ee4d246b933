"""Chain: filters, and then a selector that selects from the rows that they keep."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.positions import positions_of
from hf_datasel.rounds.run import shortfall_error
from hf_datasel.rounds.selector import RowFilter, Selector
from hf_datasel.rounds.views import FilteredView, full_round, group_names

__all__ = ["Chain"]

_EXCLUDED, _RECORD, _THEN = "left_out", "record", "then/"
"""Names of the arrays in the state of a round: codes of the excluded rows, the record, and the prefix for `then`."""

_RECORDED = ("score_specs", "columns_used", "columns_verified")
"""Fields of the record of the first round that later rounds record too."""


@dataclass(frozen=True)
class Chain(Selector):
    """Rows that a selector selects from those that filters keep.

    Each filter sees the rows that the filters before it kept. The selection equals that of `then` on a dataset of the
    remaining rows, with the same budget. Scores are computed for the remaining rows only, so put cheap filters first.

    The filters run once, in the first round; later rounds select from the same rows. Rounds are planned before that: a
    selection ratio is a share of the whole pool, and so is a share that `then` sets itself, such as the `warmup_ratio`
    of `LESS`. If the filters leave fewer rows than the budget of any round, the first round raises an error with the
    number of excluded rows by reason. `then=All()` keeps all rows that pass the filters, in dataset order, whatever
    the budget.

    Any `RowFilter` can be used. Recipes name your own filter by its module and class, like a selector.

    Cost: that of the filters and of the method.

    >>> from hf_datasel.selectors import InRange, NoNearDuplicates, Random
    >>> Chain([InRange("num_tokens", 10, 2048), NoNearDuplicates(by="ifd")], Random()).filters[0].low
    10

    Args:
        filters: Filters, in the order in which they run.
        then: Selector that selects from the rows that the filters keep.
    """

    filters: Sequence[RowFilter]
    then: Selector

    shortfall_hint: ClassVar[str] = (
        "Lower it, or keep all rows that pass the filters with then=All(), in YAML then: {selector: all}."
    )

    def __post_init__(self) -> None:
        if not isinstance(self.filters, list | tuple):
            value = f"{type(self.filters).__name__}(...)" if isinstance(self.filters, RowFilter) else self.filters
            raise ConfigError(
                f"Chain(filters={value}): it has to be a list of filters, which recipes write as "
                "filters: [{filter: in_range, by: num_tokens, low: 10}]."
            )
        for row_filter in self.filters:
            if not isinstance(row_filter, RowFilter):
                raise ConfigError(
                    f"Chain(filters=[{row_filter!r}]): it has to be a filter such as InRange('num_tokens', low=10), "
                    "which recipes write as {filter: in_range, by: num_tokens, low: 10}."
                )
        if not isinstance(self.then, Selector):
            name = self.then if isinstance(self.then, str) else "random"
            raise ConfigError(
                f"Chain(then={self.then!r}): it has to be a selector, such as Random(), which recipes write as "
                f"then: {{selector: {name}}}."
            )
        object.__setattr__(self, "filters", tuple(self.filters))
        object.__setattr__(self, "reselects", self.then.reselects)
        object.__setattr__(self, "nested", self.then.nested)
        object.__setattr__(self, "keeps_all", self.then.keeps_all)

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        """Return the rounds of `then`."""
        return self.then.plan(total_budget, num_epochs, pool_size)

    def check_training(self, args: Any) -> None:
        """Raise the errors that `then` raises for these training arguments."""
        self.then.check_training(args)

    def check_columns(self, context: RoundContext) -> None:
        """Raise the errors of `then`, but not about values, since filters may exclude the rows that have them."""
        view = copy.copy(context)
        view.eligible = np.zeros_like(context.eligible)
        super().check_columns(view)

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows that `then` selects from those that the filters keep.

        Raises:
            SelectionError: The filters leave fewer rows than the budget of a later round.
        """
        is_first = _EXCLUDED not in context.state
        rows = self.run_filters(context) if is_first else _rows_of_first_round(context)
        if not len(rows):
            return rows
        if is_first:
            _check_later_budgets(context, len(rows))
        earlier = {name: array for name, array in context.state.items() if name.startswith(_THEN)}
        view = FilteredView(context, rows, {name.removeprefix(_THEN): array for name, array in earlier.items()})
        selected = view.run(self.then)
        context.state.update({f"{_THEN}{name}": array for name, array in view.state.items()})
        return selected

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return sentences on the filter that excluded the row, or those of `then`."""
        rows = np.flatnonzero(context.eligible)
        for row_filter in self.filters:
            remaining = _run_filter(row_filter, context, rows)
            if row not in remaining:
                reasons = [reason for reason, excluded in context.excluded_rows().items() if row in excluded]
                sentence = f"The filter {row_filter.describe()!r} excluded it: {reasons[0]}."
                return [sentence, *row_filter.explain(context, remaining, row)]
            rows = remaining
        positions = positions_of(selected, rows)
        sentence = f"It is one of {len(rows):,} rows that the filters kept."
        view = FilteredView(context, rows, {})
        return [sentence, *self.then.explain(view, positions[positions >= 0], int(np.searchsorted(rows, row)))]

    def run_filters(self, context: RoundContext) -> np.ndarray:
        """Return the rows that all filters keep, and store the excluded ones in the state for later rounds.

        Args:
            context: Context of the round, which counts the excluded rows by reason.

        Returns:
            Row numbers, int64, ascending.
        """
        rows, earlier_notes = np.flatnonzero(context.eligible), set(context.record.notes)
        for row_filter in self.filters:
            rows = _run_filter(row_filter, context, rows)
        notes = {name: note for name, note in context.record.notes.items() if name not in earlier_notes}
        reasons = {reason: np.setdiff1d(excluded, rows) for reason, excluded in context.excluded_rows().items()}
        codes = np.zeros(len(context.pool), dtype=np.int32)
        for code, excluded in enumerate(reasons.values(), 1):
            codes[excluded] = code
        record = {
            "reasons": list(reasons),
            "notes": notes,
            **{name: getattr(context.record, name) for name in _RECORDED},
        }
        context.state[_EXCLUDED] = codes
        context.state[_RECORD] = np.array([json.dumps(record, default=str)])
        return rows


def _rows_of_first_round(context: RoundContext) -> np.ndarray:
    """Return the rows that the filters kept in the first round, and record what they recorded."""
    codes, record = context.state[_EXCLUDED], json.loads(str(context.state[_RECORD][0]))
    for code, reason in enumerate(record["reasons"], 1):
        context.exclude(reason, np.flatnonzero(codes == code))
    context.record.notes |= record.get("notes", {})  # checkpoints of development versions have none
    for name in _RECORDED:
        values: list[Any] = getattr(context.record, name)
        values += [value for value in record[name] if value not in values]
    rows: np.ndarray = np.flatnonzero(context.eligible & (codes == 0))
    return rows


def _check_later_budgets(context: RoundContext, num_rows: int) -> None:
    """Raise if a later round has a budget above the number of remaining rows, before anything is trained.

    Inside a group nothing is checked: a group's later budgets are known only then, and other groups fill the gap.

    Raises:
        SelectionError: Names the budget, and the number of rows excluded for each reason.
    """
    largest = max((step.budget for step in context.plan[context.index + 1 :]), default=0)
    if context.budget <= num_rows < largest and not group_names(context):
        raise shortfall_error(full_round(context), num_rows, f"A round of {largest:,} rows")


def _run_filter(row_filter: RowFilter, context: RoundContext, rows: np.ndarray) -> np.ndarray:
    """Return the rows that a filter keeps, ascending, and count the others as excluded.

    Raises:
        SelectionError: The filter returned no row numbers, or other rows than it was called with.
    """
    if not len(rows):
        return rows
    name, caller = type(row_filter).__name__, context.record.caller
    context.record.caller = name
    output = np.asarray(row_filter.keep(context, rows))
    context.record.caller = caller
    if output.ndim != 1 or (output.size and not np.issubdtype(output.dtype, np.integer)):
        raise SelectionError(f"{name}.keep returned {output.dtype} of shape {output.shape}, not row numbers.")
    remaining = np.unique(output.astype(np.int64))
    if not np.isin(remaining, rows).all():
        raise SelectionError(f"{name}.keep returned rows that it was not called with.")
    context.exclude(f"excluded by {name}", np.setdiff1d(rows, remaining, assume_unique=True))
    return remaining
