"""Rows with the highest value of any score or column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_datasel.rounds.ranked_selector import RankedSelector
from hf_datasel.rounds.selector import check_source

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Score

__all__ = ["Top"]


@dataclass(frozen=True)
class Top(RankedSelector):
    """Rows with the highest value in a column or of a score.

    Ties go to the lower row number. Rows without a value (null or NaN) are never selected; infinity counts as the
    highest value, minus infinity as the lowest. Integers and decimals are compared exactly, true is above false.

    `Top(by="ifd")` reads a column; `Top(by=Loss("Qwen/Qwen3-0.6B"))` computes the score.

    Cost: that of the score.

    Args:
        by: Name of a numeric column, or a score.
    """

    by: str | Score

    def __post_init__(self) -> None:
        check_source(self, "by")

    @property
    def ranks_by(self) -> str | Score:
        """Column or score that rows are ranked by."""
        return self.by
