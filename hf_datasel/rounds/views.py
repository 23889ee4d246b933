"""A round over some of the rows: what a selector sees that works inside a group."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.errors import Interrupted
from hf_datasel.rounds.cache import Material
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.positions import place_of
from hf_datasel.rounds.run import ask
from hf_datasel.rounds.selector import Selector

if TYPE_CHECKING:
    from hf_datasel.scores import Embedding
    from hf_datasel.scoring.base import Score

__all__ = ["PartOfRound", "RestOfRound", "groups_of", "whole_of"]


def whole_of(round: Round) -> Round:
    """The round that a part, or a part of a part, belongs to; the round itself where it is none."""
    while isinstance(round, PartOfRound):
        round = round.whole
    return round


def groups_of(round: Round) -> tuple[str, ...]:
    """The names of the groups that a part of a round is in, the outermost first; none for a whole round."""
    return round.groups if isinstance(round, PartOfRound) else ()


class PartOfRound(Round):
    """Some rows of a round as a pool of their own, numbered from 0.

    Scores, columns and vectors are those of the whole round, computed or read once, and rows that are left out are
    counted there. Random numbers and `state` are the part's own, and its plan has the part's share of each budget.

    Args:
        whole: the round.
        at: rows of it, int64.
        budget: rows to choose.
        number: of the part, which its random numbers depend on.
        state: what the part kept from the round before.
        material: of an earlier round over the same part, if there is one.
        name: of the group that the part is, if it is one.
    """

    def __init__(
        self,
        whole: Round,
        at: np.ndarray,
        budget: int,
        number: int,
        state: dict[str, np.ndarray],
        material: Material | None = None,
        name: str | None = None,
    ):
        chosen = place_of(whole.chosen, at)
        share = budget / max(whole.budget, 1)
        super().__init__(
            index=whole.index,
            rows=whole.rows.subset(at) if material is None else material.pool,
            eligible=whole.eligible[at],
            budget=budget,
            compute=whole.compute,
            seed=whole.seed,
            chosen=chosen[chosen >= 0],
            checkpoints=whole.checkpoints,
            state=dict(state),
            plan=tuple(replace(each, budget=max(math.ceil(each.budget * share), 1)) for each in whole.plan),
            has_model=whole.has_model,
            shown=False,
            material=material,
        )
        self.whole, self.at, self._given = whole, at, state
        self.groups = groups_of(whole) if name is None else (*groups_of(whole), name)
        self.path = (*whole.path, 1, number)  # spawned generators of the whole round have a path of one number
        self.rng = np.random.default_rng(np.random.SeedSequence([whole.seed, whole.index], spawn_key=self.path))
        self.columns_used, self.columns_known = whole.columns_used, whole.columns_known
        self.specs, self.notes = whole.specs, whole.notes

    def answer(self, selector: Selector) -> np.ndarray:
        """The selector's choice, as rows of the whole round.

        Raises:
            Interrupted: Ctrl-C; with rows of the whole round.
        """
        try:
            rows: np.ndarray = self.at[ask(selector, self)]
        except Interrupted as stop:
            raise Interrupted(self.at[stop.chosen]) from None
        return rows

    def newly_kept(self) -> dict[str, np.ndarray]:
        """What was set of the state in this round."""
        return {name: each for name, each in self.state.items() if each is not self._given.get(name)}

    def leave_out(self, reason: str, rows: np.ndarray) -> None:
        self.whole.leave_out(reason, self.at[rows])

    def row_number(self, row: int) -> int:
        return self.whole.row_number(self.at[row])

    def score(self, score: Score, rows: np.ndarray | None = None, optional: bool = False) -> dict[str, np.ndarray]:
        if rows is not None and (optional or not np.array_equal(rows, np.arange(len(self.at)))):
            return self.whole.score(score, self.at[rows], optional)
        return {name: values[self.at] for name, values in self.whole.score(score, optional=optional).items()}

    def column(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        numbers: np.ndarray = self.whole.column(name)[self.at if rows is None else self.at[rows]]
        return numbers

    def vectors(self, source: str | Embedding, rows: np.ndarray | None = None) -> np.ndarray:
        found: np.ndarray = self.whole.vectors(source)[self.at if rows is None else self.at[rows]]
        return found

    def rows_left_out(self) -> dict[str, np.ndarray]:
        inside = {reason: place_of(rows, self.at) for reason, rows in self.whole.rows_left_out().items()}
        return {reason: np.sort(rows[rows >= 0]) for reason, rows in inside.items() if (rows >= 0).any()}


class RestOfRound(PartOfRound):
    """What filters have left of a round, in which a selector chooses as from a dataset of these rows alone.

    Scores and vectors are computed for these rows only, random numbers are those of the round, and what is recorded
    and shown goes there.

    Args:
        whole: the round.
        at: rows that are left, int64, ascending.
        state: what was kept from the round before.
    """

    def __init__(self, whole: Round, at: np.ndarray, state: dict[str, np.ndarray]):
        super().__init__(whole, at, whole.budget, 0, state)
        self.path, self.rng = whole.path, whole.rng
        self.logs, self.shown, self.remembered = whole.logs, whole.shown, whole.remembered

    def answer(self, selector: Selector) -> np.ndarray:
        asker, self.whole.asker = self.whole.asker, type(selector).__name__  # who asks the round for a column
        rows = super().answer(selector)
        self.whole.asker = asker
        self.whole.scored.update({name: (self.at[at], values) for name, (at, values) in self.scored.items()})
        return rows

    def score(self, score: Score, rows: np.ndarray | None = None, optional: bool = False) -> dict[str, np.ndarray]:
        return self.whole.score(score, self.at if rows is None else self.at[rows], optional)

    def vectors(self, source: str | Embedding, rows: np.ndarray | None = None) -> np.ndarray:
        return self.whole.vectors(source, self.at if rows is None else self.at[rows])
