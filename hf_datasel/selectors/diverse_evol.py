"""DiverseEvol: rows added in rounds, each far from those selected before by the vectors of the model in training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.cache import take_rows
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.incremental_selector import IncrementalSelector
from hf_datasel.rounds.positions import positions_of
from hf_datasel.rounds.selector import check_source, column_name
from hf_datasel.rounds.views import group_names
from hf_datasel.scores import Embedding
from hf_datasel.scoring.base import Score
from hf_datasel.selectors.k_center import KCenter, describe_distance
from hf_datasel.strategies.farthest import farthest_first

__all__ = ["DiverseEvol"]


@dataclass(frozen=True)
class DiverseEvol(IncrementalSelector):
    """Rows added in rounds, each the farthest from all selected before, by the vectors of the current model.

    The first round draws rows at random. Each later round runs the model in training over the whole pool once and adds
    rows one at a time. As with `KCenter`, distances are Euclidean and quality plays no role. Every
    process holds the vectors of the pool, and the main process two more copies of them while it selects, with 4 bytes
    for each number: a million rows with 4,096 dimensions are 16 GB each time.

    Cost: ten more trainings from the base weights, and one forward pass over all rows after each.

    Reference: Wu et al. 2023 (2311.08182): 100 random rows and then 10 times 100 more, so 11 rounds, each trained from
    the base model; vectors are the mean of the last layer over all tokens, not scaled to length 1. These are the
    defaults, with a budget of 1,100 rows. Xia et al. 2024 (2410.09335), section 4.3, use 3 rounds and take the rows
    farthest from the earlier rounds all at once, `once=True`, so these may be near-duplicates of each other.

    Args:
        vectors: `Embedding(...)`, by default of the model in training; or a column, whose vectors stay the same in all
            rounds.
        once: Whether distances are measured to the rows of earlier rounds only.
        rounds: Number of rounds, each with its share of the budget.
        restart_each_round: Whether each round trains the base model for all of `num_train_epochs`; otherwise training
            continues, and the rounds share the epochs.
    """

    vectors: str | Embedding = field(default=Embedding(as_trained=True, normalize=False))
    once: bool = False
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
        """Return the scores that later rounds compute."""
        return () if isinstance(self.vectors, str) else (self.vectors,)

    def add(self, context: RoundContext, rows: int) -> np.ndarray:
        """Return new rows: drawn at random in the first round, and the farthest ones in later rounds."""
        is_first = not len(context.selected)
        if is_first and not isinstance(self.vectors, str):
            candidates = np.flatnonzero(context.eligible)  # the random rows need no vectors
            return candidates[context.rng.permutation(len(candidates))[:rows]]
        vectors = context.vectors(self.vectors)
        candidates = context.candidates(vectors, np.arange(len(vectors)), name=column_name(self.vectors))
        if is_first:
            return candidates[context.rng.permutation(len(candidates))[:rows]]
        start = positions_of(context.selected, candidates)
        start = start[start >= 0]
        count = min(rows, len(candidates) - len(start))

        def select(progress: Callable[[int], object]) -> np.ndarray:
            return farthest_first(
                take_rows(vectors, candidates),
                count,
                start,
                self.once,
                lambda done: progress(len(context.selected) + done),
            )

        return context.pick(candidates, select)

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return sentences on the round in which the row was selected, and on the nearest selected row."""
        if not context.index:
            return ["The rows of the first round are drawn at random."]
        if group_names(context):
            return []  # how many rows come from earlier rounds is recorded for the whole round only
        sentences, before = self.describe_round(context, selected, row), self.num_rows_before(context)
        if row in selected[:before]:
            return sentences
        vectors = context.vectors(self.vectors)
        return [*sentences, *describe_distance(context, vectors, selected, row, before, self.once)]
