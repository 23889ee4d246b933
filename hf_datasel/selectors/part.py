"""A round over some of the rows: what a selector sees that works inside a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.errors import Interrupted
from hf_datasel.selectors.base import Selector
from hf_datasel.selectors.round import Round
from hf_datasel.selectors.running import ask

if TYPE_CHECKING:
    from hf_datasel.scores import Embedding, Score

__all__ = ["PartOfRound"]


class PartOfRound(Round):
    """Some rows of a round as a pool of their own, numbered from 0.

    Scores, columns and vectors are those of the whole round, computed or read once. Random numbers and `state` are the
    part's own.

    Args:
        whole: the round.
        at: rows of it, int64.
        budget: rows to choose.
        number: of the part, which its random numbers depend on.
        prefix: of the names under which its `state` is kept.
    """

    def __init__(self, whole: Round, at: np.ndarray, budget: int, number: int, prefix: str):
        place = np.full(len(whole.rows), -1, dtype=np.int64)
        place[at] = np.arange(len(at))
        chosen = place[whole.chosen]
        super().__init__(
            index=whole.index,
            rows=whole.rows.subset(at),
            eligible=whole.eligible[at],
            budget=budget,
            compute=whole.compute,
            seed=whole.seed,
            chosen=chosen[chosen >= 0],
            checkpoints=whole.checkpoints,
            state={
                name.removeprefix(prefix): values for name, values in whole.state.items() if name.startswith(prefix)
            },
            plan=whole.plan,
            has_model=whole.has_model,
            shown=False,
        )
        self.whole, self.at, self.prefix = whole, at, prefix
        self.rng = np.random.default_rng([whole.seed, whole.index, number])
        self.columns_used, self.specs = whole.columns_used, whole.specs

    def answer(self, selector: Selector) -> np.ndarray:
        """The selector's choice, as rows of the whole round.

        Raises:
            Interrupted: Ctrl-C; with rows of the whole round.
        """
        try:
            rows: np.ndarray = self.at[ask(selector, self)]
        except Interrupted as stop:
            raise Interrupted(self.at[stop.chosen]) from None
        self.whole.state.update({f"{self.prefix}{name}": values for name, values in self.state.items()})
        return rows

    def row_number(self, row: int) -> int:
        return self.whole.row_number(self.at[row])

    def score(self, score: Score, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        if rows is not None and not np.array_equal(rows, np.arange(len(self.at))):
            return self.whole.score(score, self.at[rows])
        return {name: values[self.at] for name, values in self.whole.score(score).items()}

    def column(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        numbers: np.ndarray = self.whole.column(name)[self.at if rows is None else self.at[rows]]
        return numbers

    def vectors(self, source: str | Embedding) -> np.ndarray:
        found: np.ndarray = self.whole.vectors(source)[self.at]
        return found
