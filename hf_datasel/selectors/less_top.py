"""LESS: rows with the highest influence on a target task, from checkpoints of an earlier run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.ranked_selector import RankedSelector
from hf_datasel.rounds.selector import check_source
from hf_datasel.rounds.target_selector import count_copies
from hf_datasel.scores import Influence

__all__ = ["LESSTop"]


@dataclass(frozen=True)
class LESSTop(RankedSelector):
    """Rows with the highest influence on the validation rows of a target task.

    Influence needs the checkpoints of a warm-up run. It is read from a column by default; to compute it, pass
    `LESSTop(by=Influence(checkpoints=(...), validation="bbh.jsonl"))`. `LESS` runs the warm-up, the selection and the
    training in one run.

    Cost: one backward pass over all rows per checkpoint; none with a column.

    Reference: Xia et al. 2024 (2402.04333), who keep the top 5 %; a baseline of Xia et al. 2024 (2410.09335), who use
    1,000 random rows of the pool as the target. `Influence` documents which aggregate is that of the paper and which
    that of the code.

    Args:
        by: Name of a column, or `Influence(...)`.
    """

    by: str | Influence = "influence"

    title: ClassVar[str] = "LESS"
    citation = Influence.citation

    def __post_init__(self) -> None:
        check_source(self, "by", "Influence")

    def prepare(self, context: RoundContext) -> None:
        """Count the rows that repeat target rows."""
        if isinstance(self.by, Influence):
            count_copies(context, self.by)

    @property
    def ranks_by(self) -> str | Influence:
        """Column or score that rows are ranked by."""
        return self.by
