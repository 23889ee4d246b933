"""What helps most as an example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.ranked_selector import Ranked
from hf_datasel.rounds.selector import check_number, check_source
from hf_datasel.scores import Nuggets

__all__ = ["NuggetsTop"]


@dataclass(frozen=True)
class NuggetsTop(Ranked):
    """The rows with the highest golden score: those that, as an example, help with most of the anchor tasks.

    The score is read from a column, unless it is said how to compute it:
    `NuggetsTop(by=Nuggets(anchor_file="anchors.jsonl"))`.

    Reference: Li et al. 2023 (2312.10302), who keep every row above a score, most often 0.85: `threshold=0.85` leaves
    the others out. There is none by default, since a budget says how many rows to take. Xia et al. 2024 (2410.09335),
    section 5.3, gave up on its cost.
    """

    by: str | Nuggets = "golden"
    threshold: float | None = None
    """Rows up to this score are left out, those with exactly this score too."""

    title: ClassVar[str] = "Nuggets"
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

    def refused(self, values: np.ndarray) -> tuple[np.ndarray, str]:
        if self.threshold is None:
            return super().refused(values)
        # in float32, in which scores are kept: 0.85 there is above 0.85 in float64
        low = values.astype(np.float32) <= np.float32(self.threshold)
        return low, f"with {self.value_column} <= {self.threshold:g}"
