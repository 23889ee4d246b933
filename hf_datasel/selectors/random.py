"""Random rows: the baseline that every method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector

__all__ = ["Random"]


@dataclass(frozen=True)
class Random(Selector):
    """Rows drawn uniformly at random, without replacement, from those that can be trained on.

    The draw depends on the random seed of the run and on the number of the round.

    Cost: none.
    """

    nested: ClassVar[bool] = True

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows of this round in random order."""
        rows = np.flatnonzero(context.eligible)
        return context.rng.permutation(rows)[: context.budget]

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return a sentence that names the random seed."""
        return [f"Rows were drawn at random, with seed {context.record.seed}."]
