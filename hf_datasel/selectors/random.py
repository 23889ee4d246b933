"""A uniform draw: the baseline that every method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import Selector

__all__ = ["Random"]


@dataclass(frozen=True)
class Random(Selector):
    """Rows drawn uniformly without replacement from those that can be trained on."""

    nested: ClassVar[bool] = True

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        return [f"Rows were drawn at random, with seed {round.seed}."]

    def choose(self, round: Round) -> np.ndarray:
        rows = np.flatnonzero(round.eligible)
        return round.rng.permutation(rows)[: round.budget]
