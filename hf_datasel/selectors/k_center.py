"""Rows far from each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_datasel.errors import ConfigError, Interrupted
from hf_datasel.rounds.cache import taken
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import Selector, check_number, check_source, column_of
from hf_datasel.strategies.farthest import farthest_first, nearest_chosen

if TYPE_CHECKING:
    from hf_datasel.scores import Embedding

__all__ = ["KCenter", "say_distance"]


@dataclass(frozen=True)
class KCenter(Selector):
    """Rows chosen one at a time, each the farthest from all rows chosen before it: greedy k-Center.

    Without a `start`, no row is farther from a chosen one than twice what is possible with as many rows. There is no
    notion of quality: rows that are like no other are taken first, and these are often broken. Euclidean distance. The
    vectors are held three times while rows are chosen: 4 bytes a number, each time.

    Reference: a baseline of Yu et al. 2024 (2409.11378), section 3.3 and Eq. 1; the sampling of DiverseEvol, Wu et al.
    2023 (2311.08182), which begins with 100 random rows, `start=100`, and measures from the rows of all rounds before.
    Xia et al. 2024 (2410.09335), section 4.3, take the rows farthest from these all at once, `once=True`. To begin
    with the row farthest from the mean, the default, is ours: it depends on no seed.
    """

    vectors: str | Embedding = "embedding"
    """Column of vectors, or `Embedding(...)`."""
    start: int = 0
    """Rows drawn at random to begin with; they are part of the choice. Without any, the first is the one farthest from
    the mean."""
    once: bool = False
    """Measure the distances to the rows of the start only."""

    title: ClassVar[str] = "k-Center"
    nested: ClassVar[bool] = True
    citation = (
        "@article{wu2023diverseevol, title={Self-Evolved Diverse Data Sampling for Efficient Instruction Tuning}, "
        "author={Wu, Shengguang and Lu, Keming and Xu, Benfeng and Lin, Junyang and Su, Qi and Zhou, Chang}, "
        "journal={arXiv preprint arXiv:2311.08182}, year={2023}}"
    )

    def __post_init__(self) -> None:
        check_source(self, "vectors", "Embedding")
        check_number(self, "start", 0, whole=True)
        if not isinstance(self.once, bool):
            raise ConfigError(f"KCenter(once={self.once!r}): it has to be true or false.")
        if self.once and not self.start:
            raise ConfigError("KCenter(once=True) measures distances to the rows of the start: pass start=100, say.")

    def choose(self, round: Round) -> np.ndarray:
        vectors = round.vectors(self.vectors)
        rows = round.candidates(vectors, np.arange(len(vectors)), name=column_of(self.vectors))
        budget = min(round.budget, len(rows))
        first = round.rng.permutation(len(rows))[: min(self.start, budget)]
        if budget == len(first):
            return np.asarray(rows[first])

        def choose(progress: Callable[[int], object]) -> np.ndarray:
            try:
                more = farthest_first(
                    taken(vectors, rows),
                    budget - len(first),
                    first,
                    self.once,
                    lambda done: progress(len(first) + done),
                )
            except Interrupted as stop:
                raise Interrupted(np.concatenate([first, stop.chosen])) from None
            return np.concatenate([first, more])

        return round.pick(rows, choose)

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        vectors, at = round.vectors(self.vectors), np.flatnonzero(chosen == row)
        if len(at) and at[0] < max(self.start, 1):
            drawn = "one of the rows drawn at random that" if self.start else "the row farthest from the mean, which"
            return [f"It is {drawn} the choice began with."]
        return say_distance(round, vectors, chosen, row, max(self.start, 1), self.once)


def say_distance(round: Round, vectors: np.ndarray, chosen: np.ndarray, row: int, start: int, once: bool) -> list[str]:
    """How far a row is from what it was held against when it was chosen, or was not.

    Args:
        round: for the numbers of its rows.
        vectors: one of each row.
        chosen: the row numbers, in order.
        row: none of the first `start` of them.
        start: rows that the choice began with.
        once: distances were measured to these alone.
    """
    at = np.flatnonzero(chosen == row)
    before = chosen[:start] if once else chosen[: at[0]] if len(at) else chosen
    nearest, distance = nearest_chosen(vectors, before, [row])
    if nearest[0] < 0:
        return ["It has no vector."]
    kind = "that the choice began with" if once else "chosen before it" if len(at) else "chosen"
    said = [f"The nearest of the rows {kind} is {round.row_number(nearest[0])}, {distance[0]:.4g} away."]
    if not len(at) and len(chosen) > start:
        _, least = nearest_chosen(vectors, before if once else chosen[:-1], chosen[-1:])
        said.append(f"The row chosen last was {least[0]:.4g} away.")
    return said
