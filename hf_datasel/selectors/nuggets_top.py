"""What helps most as an example."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.scores import Nuggets
from hf_datasel.selectors.base import check_number, check_source
from hf_datasel.selectors.round import Round
from hf_datasel.selectors.top import Ranked, top_rows

__all__ = ["NuggetsTop"]


@dataclass(frozen=True)
class NuggetsTop(Ranked):
    """The rows with the highest golden score: those that, as an example, help with most of the anchor tasks.

    The score is read from a column, unless it is said how to compute it:
    `NuggetsTop(by=Nuggets(anchor_file="anchors.jsonl"))`.

    Reference: Li et al. 2024 (2312.10302), who keep every row above a score, most often 0.85: `threshold=0.85` leaves
    the others out, and `dataset.filter(Between("golden", low=0.85), batched=True)` keeps all that are left. Xia et al.
    2024 (2410.09335) gave up on its cost.
    """

    by: str | Nuggets = "golden"
    threshold: float | None = None
    """Rows up to this score are left out."""

    citation = Nuggets.citation

    def __post_init__(self) -> None:
        check_source(self, "by", "Nuggets")
        if self.threshold is not None:
            check_number(self, "threshold", 0, 1)
        if not isinstance(self.by, str) and self.by.needs_fit:
            raise ConfigError(
                "NuggetsTop(by=Nuggets(...)) needs anchors: pass what Nuggets(...).fit(dataset) returns."
            )

    @property
    def ranks_by(self) -> str | Nuggets:
        return self.by

    def choose(self, round: Round) -> np.ndarray:
        values = round.values(self.by)
        if self.threshold is not None:
            low = values <= self.threshold
            if count := int((low & round.eligible).sum()):
                round.left_out[f"with {self.value_column} <= {self.threshold:g}"] += count
            values = np.where(low, -np.inf, values)
        rows = np.flatnonzero(values != -np.inf)
        return top_rows(round, values[rows], rows, name=self.value_column)
