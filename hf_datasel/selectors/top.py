"""The highest-scored rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_datasel.rounds.ranked_selector import Ranked
from hf_datasel.rounds.selector import check_source

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Score

__all__ = ["Top"]


@dataclass(frozen=True)
class Top(Ranked):
    """The rows with the highest value in a column, or of a score; ties go to the lower row number, nulls never go in.

    `Top(by="ifd")` reads a column; `Top(by=Loss("Qwen/Qwen3-0.6B"))` computes the score.
    """

    by: str | Score

    def __post_init__(self) -> None:
        check_source(self, "by")

    @property
    def ranks_by(self) -> str | Score:
        return self.by
