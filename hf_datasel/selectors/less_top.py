"""What lowers the loss on a target task most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_datasel.rounds.ranked_selector import Ranked
from hf_datasel.rounds.selector import check_source
from hf_datasel.scores import Influence

__all__ = ["LESSTop"]


@dataclass(frozen=True)
class LESSTop(Ranked):
    """The rows with the highest influence on the validation rows of a target task.

    Influence needs the checkpoints of a warm-up run, so that it is read from a column unless it is said how to
    compute it: `LESSTop(by=Influence(checkpoints=(...), validation="bbh.jsonl"))`. `LESS` makes the warm-up run, the
    choice and the training one.

    Reference: Xia et al. 2024 (2402.04333), who keep the top 5 %; a baseline of Xia et al. 2024 (2410.09335), for whom
    1,000 random rows of the pool are the target. `Influence` says which aggregate is the paper's and which the code's.
    """

    by: str | Influence = "influence"

    title: ClassVar[str] = "LESS"
    citation = Influence.citation

    def __post_init__(self) -> None:
        check_source(self, "by", "Influence")

    @property
    def ranks_by(self) -> str | Influence:
        return self.by
