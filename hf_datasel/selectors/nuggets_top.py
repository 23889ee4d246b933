"""Nuggets: rows that help most as a one-shot example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.ranked_selector import RankedSelector
from hf_datasel.rounds.selector import check_number, check_source
from hf_datasel.scores import Nuggets

__all__ = ["NuggetsTop"]


@dataclass(frozen=True)
class NuggetsTop(RankedSelector):
    """Rows with the highest golden score: as a one-shot example, they help with most of the anchor tasks.

    The score is read from a column by default; to compute it, pass
    `NuggetsTop(by=Nuggets(anchor_file="anchors.jsonl"))`.

    Cost: one forward pass per row and anchor task.

    Reference: Li et al. 2023 (2312.10302), who keep all rows above a score, most often 0.85: `threshold=0.85` excludes
    the others. There is no threshold by default, since the budget decides how many rows are selected. Xia et al. 2024
    (2410.09335), section 5.3, did not run it because of its cost.

    Args:
        by: Name of a column, or `Nuggets(...)` with anchors.
        threshold: Rows with this score or a lower one are excluded; None excludes none.
    """

    by: str | Nuggets = "golden"
    threshold: float | None = None

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
        """Column or score that rows are ranked by."""
        return self.by

    def excluded(self, values: np.ndarray) -> tuple[np.ndarray, str]:
        """Return which rows are excluded by the threshold, and the reason."""
        if self.threshold is None:
            return super().excluded(values)
        # in float32, in which scores are stored: 0.85 there is above 0.85 in float64
        too_low = values.astype(np.float32) <= np.float32(self.threshold)
        return too_low, f"with {self.value_column} <= {self.threshold:g}"
