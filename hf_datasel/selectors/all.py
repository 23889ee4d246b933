"""All rows, without selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.selector import Selector

__all__ = ["All"]


@dataclass(frozen=True)
class All(Selector):
    """All rows that can be trained on, in dataset order, whatever the budget.

    Training with it equals training with `SFTTrainer`. Use it as the baseline without selection, or in `Chain` to
    keep all rows that pass the filters.

    Cost: none.
    """

    keeps_all: ClassVar[bool] = True
    title: ClassVar[str] = "All rows"

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        """Return one round of all epochs over the whole pool."""
        return (RoundPlan(pool_size, num_epochs),)

    def select(self, context: RoundContext) -> np.ndarray:
        """Return all eligible rows in dataset order."""
        return np.flatnonzero(context.eligible)
