"""Every row: training without selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_datasel.rounds.context import Round, RoundPlan
from hf_datasel.rounds.selector import Selector

__all__ = ["All"]


@dataclass(frozen=True)
class All(Selector):
    """Every row that can be trained on, in dataset order, whatever the budget. Trains exactly as `SFTTrainer` does."""

    title: ClassVar[str] = "All rows"

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        return (RoundPlan(pool_size, num_epochs),)

    def choose(self, round: Round) -> np.ndarray:
        return np.flatnonzero(round.eligible)
