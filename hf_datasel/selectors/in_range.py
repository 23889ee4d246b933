"""Filter of rows by the range of a score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import RowFilter, check_number, check_source, column_of

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Score

__all__ = ["InRange"]


@dataclass(frozen=True)
class InRange(RowFilter):
    """Rows with `low <= value < high` in a column or of a score; a row without a value is left out.

    Without bounds, every row with a value. For a `Dataset.filter` by a column, see `hf_datasel.selection.Between`.
    """

    by: str | Score
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        check_source(self, "by")
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                check_number(self, name, -math.inf)
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ConfigError(f"InRange(low={self.low!r}, high={self.high!r}) can keep no row.")

    def keep(self, round: Round, rows: np.ndarray) -> np.ndarray:
        values, name = round.values(self.by, rows), column_of(self.by)
        round.leave_out(f"without {name}", rows[~np.isfinite(values)])
        kept = np.isfinite(values)
        if self.low is not None:
            round.leave_out(f"with {name} < {self.low:g}", rows[values < self.low])
            kept &= values >= self.low
        if self.high is not None:
            round.leave_out(f"with {name} >= {self.high:g}", rows[values >= self.high])
            kept &= values < self.high
        inside: np.ndarray = rows[kept]
        return inside

    def explain(self, round: Round, kept: np.ndarray, row: int) -> list[str]:
        value = round.values(self.by, np.array([row]))[0]
        return [f"Its {column_of(self.by)} is {value:.5g}."] if np.isfinite(value) else []
