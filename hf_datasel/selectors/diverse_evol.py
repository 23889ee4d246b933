"""Rows added in rounds, each the farthest from those chosen before as the model in training sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.cache import taken
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.incremental_selector import GrowingSelector
from hf_datasel.rounds.positions import place_of
from hf_datasel.rounds.selector import check_source, column_of
from hf_datasel.scores import Embedding
from hf_datasel.scoring.base import Score
from hf_datasel.selectors.k_center import KCenter, say_distance
from hf_datasel.strategies.farthest import farthest_first

__all__ = ["DiverseEvol"]


@dataclass(frozen=True)
class DiverseEvol(GrowingSelector):
    """Random rows at first, and before each later round of training rows chosen one at a time, each the farthest from
    all chosen before it, by the vectors that the model in training now has of them: DiverseEvol.

    Each later round runs the model over the whole pool once. As with `KCenter` there is no notion of quality, and the
    distance is Euclidean. Every process holds the vectors of the pool, and the one that chooses two copies of them as
    it does: 4 bytes a number, so that a million rows of 4,096 dimensions are 16 GB each time.

    Reference: Wu et al. 2023 (2311.08182): 100 random rows and then 10 times 100 more, so that there are 11 rounds,
    each trained anew from the base model; and the mean of the last layer over all tokens, not scaled to length 1.
    These are the defaults, with a budget of 1,100 rows. Xia et al. 2024 (2410.09335), section 4.3, take the rows
    farthest from the rounds before all at once, `once=True`, in 3 rounds, so that they may be near copies of each
    other.
    """

    vectors: str | Embedding = field(default=Embedding(as_trained=True, normalize=False))
    """`Embedding(...)`, of the model in training unless it names one; or a column, whose vectors stay as they are."""
    once: bool = False
    """Measure the distances to the rows of earlier rounds only."""
    rounds: int = field(default=11, kw_only=True)
    restart_each_round: bool = field(default=True, kw_only=True)

    title: ClassVar[str] = "DiverseEvol"
    citation = KCenter.citation

    def __post_init__(self) -> None:
        check_source(self, "vectors", "Embedding")
        self.check_rounds()
        if not isinstance(self.once, bool):
            raise ConfigError(f"DiverseEvol(once={self.once!r}): it has to be true or false.")

    def later_scores(self) -> tuple[Score, ...]:
        return () if isinstance(self.vectors, str) else (self.vectors,)

    def add(self, round: Round, rows: int) -> np.ndarray:
        drawn = not len(round.chosen)
        if drawn and not isinstance(self.vectors, str):
            able = np.flatnonzero(round.eligible)  # a vector is not needed yet
            return able[round.rng.permutation(len(able))[:rows]]
        vectors = round.vectors(self.vectors)
        able = round.candidates(vectors, np.arange(len(vectors)), name=column_of(self.vectors))
        if drawn:
            return able[round.rng.permutation(len(able))[:rows]]
        start = place_of(round.chosen, able)
        start = start[start >= 0]
        count = min(rows, len(able) - len(start))

        def choose(progress: Callable[[int], object]) -> np.ndarray:
            return farthest_first(
                taken(vectors, able), count, start, self.once, lambda done: progress(len(round.chosen) + done)
            )

        return round.pick(able, choose)

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        if not round.index:
            return ["The rows of the first round are drawn at random."]
        if round.path:
            return []  # what each round chose is known of whole rounds only
        said, before = self.when(round, chosen, row), self.before(round)
        if row in chosen[:before]:
            return said
        return [*said, *say_distance(round, round.vectors(self.vectors), chosen, row, before, self.once)]
