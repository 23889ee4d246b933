"""Filter: rows whose value is in a range."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.errors import ConfigError, check_option
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import RowFilter, check_number, check_source, column_name
from hf_datasel.scoring.numbers import at_least

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Score

__all__ = ["InRange"]


@dataclass(frozen=True)
class InRange(RowFilter):
    """Rows with `low <= value < high` in a column or of a score.

    Rows without a value (null or NaN) are excluded; infinity is a value. Of a column without bounds, all rows with a
    value are kept; a score needs a bound. To filter a dataset by a column without a selection, use `Dataset.filter`
    with `hf_datasel.selection.Between`.

    Cost: that of the score.

    >>> from hf_datasel.scores import URLs
    >>> InRange(URLs(), high=1, column="link_phrases").column
    'link_phrases'

    Args:
        by: Name of a numeric column, or a score.
        low: Lowest value that is kept; None for no lower bound.
        high: Value from which on rows are excluded; None for no upper bound.
        column: Which column of a score that writes several numbers; by default the one that selectors rank rows by.
    """

    by: str | Score
    low: float | None = None
    high: float | None = None
    column: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_source(self, "by")
        if self.column is not None:
            self._check_column()
        if self.low is None and self.high is None and not isinstance(self.by, str):
            raise ConfigError(
                f"InRange(by={self.by!r}) has no bound, and would keep every row with a value: set low, high or both."
            )
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                check_number(self, name, -math.inf)
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ConfigError(
                f"InRange(low={self.low!r}, high={self.high!r}) excludes every row: low must be below high."
            )

    def keep(self, context: RoundContext, rows: np.ndarray) -> np.ndarray:
        """Return the rows in the range, and count the others as excluded."""
        values, name = context.values(self.by, rows, self.column), self._name
        in_range = ~np.isnan(values)
        context.exclude(f"without {name}", rows[~in_range])
        if self.low is not None:
            context.exclude(f"with {name} < {self.low:g}", rows[in_range & ~at_least(values, self.low)])
            in_range &= at_least(values, self.low)
        if self.high is not None:
            context.exclude(f"with {name} >= {self.high:g}", rows[at_least(values, self.high)])
            in_range &= ~at_least(values, self.high)
        result: np.ndarray = rows[in_range]
        return result

    def describe(self) -> str:
        """Return which rows are kept, in a few words."""
        if self.high is None:
            return self._name if self.low is None else f"{self._name} >= {self.low:g}"
        return f"{'' if self.low is None else f'{self.low:g} <= '}{self._name} < {self.high:g}"

    def explain(self, context: RoundContext, kept_rows: np.ndarray, row: int) -> list[str]:
        """Return a sentence with the value of the row."""
        value = context.values(self.by, np.array([row]), self.column)[0]
        return [f"Its {self._name} is {value:.5g}."] if not np.isnan(value) else []

    @property
    def _name(self) -> str:
        return self.column or column_name(self.by)

    def _check_column(self) -> None:
        """Raise `ConfigError` if the column is none of those of the score."""
        if isinstance(self.by, str):
            raise ConfigError(f"InRange(by={self.by!r}, column={self.column!r}): name one column, in by.")
        columns = [f"{self.by.column_prefix}{name}" for name in self.by.columns()]
        check_option(f"InRange(column={self.column!r})", self.column, columns)
