"""k-Center: rows far from each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_datasel.errors import ConfigError, Interrupted
from hf_datasel.rounds.cache import take_rows
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector, check_number, check_source, column_name
from hf_datasel.strategies.farthest import farthest_first, nearest_selected

if TYPE_CHECKING:
    from hf_datasel.scores import Embedding

__all__ = ["KCenter", "describe_distance"]


@dataclass(frozen=True)
class KCenter(Selector):
    """Rows selected one at a time, each the farthest from all rows selected before it: greedy k-Center.

    Distances are Euclidean. Without `start`, the largest distance of a row to its nearest selected row is at most
    twice the smallest possible one for this number of rows. Quality plays no role: rows that are unlike all others
    come first, and these are often broken. While rows are selected, the vectors are held in memory three times, with 4
    bytes for each number.

    Cost: embeddings.

    Reference: a baseline of Yu et al. 2024 (2409.11378), section 3.3 and Eq. 1; the sampling of DiverseEvol, Wu et al.
    2023 (2311.08182), which starts with 100 random rows, `start=100`, and measures from the rows of all earlier
    rounds. Xia et al. 2024 (2410.09335), section 4.3, take the rows farthest from these all at once, `once=True`.
    Starting with the row farthest from the mean, the default, is specific to this library: it depends on no random
    seed.

    Args:
        vectors: Column of vectors, or `Embedding(...)`.
        start: Number of random rows to start with; they are part of the selection. With 0 the first row is the one
            farthest from the mean.
        once: Whether distances are measured to the rows of `start` only.
    """

    vectors: str | Embedding = "embedding"
    start: int = 0
    once: bool = False

    title: ClassVar[str] = "k-Center"
    nested: ClassVar[bool] = True
    citation = (
        "@article{wu2023diverseevol, title={Self-Evolved Diverse Data Sampling for Efficient Instruction Tuning}, "
        "author={Wu, Shengguang and Lu, Keming and Xu, Benfeng and Lin, Junyang and Su, Qi and Zhou, Chang}, "
        "journal={arXiv preprint arXiv:2311.08182}, year={2023}}"
    )

    def __post_init__(self) -> None:
        check_source(self, "vectors", "Embedding")
        check_number(self, "start", 0, integer=True)
        if not isinstance(self.once, bool):
            raise ConfigError(f"KCenter(once={self.once!r}): it has to be true or false.")
        if self.once and not self.start:
            raise ConfigError("KCenter(once=True) measures distances to the rows of the start: pass start=100, say.")

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows of the start, and then the others in the order in which they are selected."""
        vectors = context.vectors(self.vectors)
        rows = context.candidates(vectors, np.arange(len(vectors)), name=column_name(self.vectors))
        budget = min(context.budget, len(rows))
        first = context.rng.permutation(len(rows))[: min(self.start, budget)]
        if budget == len(first):
            return np.asarray(rows[first])

        def select(progress: Callable[[int], object]) -> np.ndarray:
            try:
                more = farthest_first(
                    take_rows(vectors, rows),
                    budget - len(first),
                    first,
                    self.once,
                    lambda done: progress(len(first) + done),
                )
            except Interrupted as stop:
                raise Interrupted(np.concatenate([first, stop.selected])) from None
            return np.concatenate([first, more])

        return context.pick(rows, select)

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return sentences on the nearest selected row and its distance."""
        vectors, ranks = context.vectors(self.vectors), np.flatnonzero(selected == row)
        if len(ranks) and ranks[0] < max(self.start, 1):
            drawn = "one of the rows drawn at random that" if self.start else "the row farthest from the mean, which"
            return [f"It is {drawn} the selection began with."]
        return describe_distance(context, vectors, selected, row, max(self.start, 1), self.once)


def describe_distance(
    context: RoundContext, vectors: np.ndarray, selected: np.ndarray, row: int, start: int, once: bool
) -> list[str]:
    """Return sentences on the distance between a row and the nearest of the rows that it was compared with.

    Args:
        context: Context of the round, for the numbers of its rows.
        vectors: One vector per row.
        selected: Selected row numbers, in order.
        row: Row number, not one of the first `start` selected rows.
        start: Number of rows that the selection began with.
        once: Whether distances were measured to these rows only.
    """
    ranks = np.flatnonzero(selected == row)
    compared = selected[:start] if once else selected[: ranks[0]] if len(ranks) else selected
    nearest, distance = nearest_selected(vectors, compared, [row])
    if nearest[0] < 0:
        return ["It has no vector."]
    kind = "that the selection began with" if once else "selected before it" if len(ranks) else "selected"
    sentences = [f"The nearest of the rows {kind} is {context.row_number(nearest[0])}, {distance[0]:.4g} away."]
    if not len(ranks) and len(selected) > start:
        _, last = nearest_selected(vectors, compared if once else selected[:-1], selected[-1:])
        sentences.append(f"The row selected last was {last[0]:.4g} away.")
    return sentences
