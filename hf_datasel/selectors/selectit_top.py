"""SelectIT: rows that a model rates highest with the least uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_datasel.rounds.ranked_selector import RankedSelector
from hf_datasel.rounds.selector import check_source
from hf_datasel.scores import SelectIT

__all__ = ["SelectITTop"]


@dataclass(frozen=True)
class SelectITTop(RankedSelector):
    """Rows with the highest SelectIT score.

    `SelectITTop()` scores with the model of the round, `SelectITTop(by=SelectIT("name or path", level="token"))` with
    another model and at another level, and `SelectITTop(by="selectit")` reads a column.

    Cost: five forward passes over all rows.

    Reference: Liu et al. 2024 (2402.16705), who keep the top 20 % of Alpaca; a baseline of Xia et al. 2024
    (2410.09335), section 4.3, who use level "model" for Qwen2 and "sentence", the default here, for Llama 3.
    `SelectIT` documents how the score relates to the paper.

    Args:
        by: `SelectIT(...)`, or the name of a column.
    """

    by: str | SelectIT = SelectIT()

    title: ClassVar[str] = "SelectIT"
    citation = SelectIT.citation

    def __post_init__(self) -> None:
        check_source(self, "by", "SelectIT")

    @property
    def ranks_by(self) -> str | SelectIT:
        """Column or score that rows are ranked by."""
        return self.by
