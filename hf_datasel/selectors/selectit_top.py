"""What the model rates highest, and is sure of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_datasel.rounds.ranked_selector import Ranked
from hf_datasel.rounds.selector import check_source
from hf_datasel.scores import SelectIT

__all__ = ["SelectITTop"]


@dataclass(frozen=True)
class SelectITTop(Ranked):
    """The rows with the highest SelectIT score.

    `SelectITTop()` asks the model of the round; `SelectITTop(by=SelectIT("name or path", level="token"))` another one,
    at another level; `SelectITTop(by="selectit")` takes a column.

    Reference: Liu et al. 2024 (2402.16705), who keep the top 20 % of Alpaca; a baseline of Xia et al. 2024
    (2410.09335), section 4.3, at the level "model" for Qwen2 and "sentence", which is the default, for Llama 3. What
    the score takes from the paper is said there.
    """

    by: str | SelectIT = SelectIT()

    title: ClassVar[str] = "SelectIT"
    citation = SelectIT.citation

    def __post_init__(self) -> None:
        check_source(self, "by", "SelectIT")

    @property
    def ranks_by(self) -> str | SelectIT:
        return self.by
