"""Views of a round: the context of a selector that selects from some of the rows only."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel.errors import Interrupted
from hf_datasel.rounds.cache import RoundCache, take_rows
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.positions import positions_of
from hf_datasel.rounds.run import run_selector
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores.mix import Mix

if TYPE_CHECKING:
    from hf_datasel.scores import Embedding
    from hf_datasel.scoring.base import Score
    from hf_datasel.scoring.target_rows import TargetRows

__all__ = ["FilteredView", "GroupView", "SubsetView", "full_round", "group_names", "without_groups"]


def full_round(context: RoundContext) -> RoundContext:
    """Return the round over the whole pool that a view, or a view of a view, belongs to; `context` itself if none."""
    while isinstance(context, SubsetView):
        context = context.parent
    return context


def group_names(context: RoundContext) -> tuple[str, ...]:
    """Return the names of the groups that a context is restricted to, outermost first; empty for all rows."""
    if not isinstance(context, SubsetView):
        return ()
    names = group_names(context.parent)
    return (*names, context.name) if isinstance(context, GroupView) else names


def without_groups(context: RoundContext) -> RoundContext:
    """Return the context that the groups of a context divide; `context` itself if it is no group."""
    while isinstance(context, GroupView):
        context = context.parent
    return context


class SubsetView(RoundContext):
    """Context of some rows of a round, numbered from 0. Base class of `GroupView` and `FilteredView`.

    Columns are read once, in the parent, and excluded rows are counted there.

    Args:
        parent: The round, or another view.
        rows: Row numbers in the parent, int64.
        budget: Number of rows to select.
        state: Arrays that the earlier rounds of the same view stored.
        cache: Cache of an earlier view of the same rows; by default a new one.
        plan: All rounds of the run, with this view's budgets.
        show_progress: Whether to show progress bars where stderr is a terminal.

    Attributes:
        parent: The round, or another view.
        rows: Row numbers in the parent, int64.
    """

    def __init__(
        self,
        parent: RoundContext,
        rows: np.ndarray,
        *,
        budget: int,
        state: dict[str, np.ndarray],
        cache: RoundCache | None = None,
        plan: tuple[RoundPlan, ...] = (),
        show_progress: bool = True,
    ):
        if cache is None:
            pool = parent.record.pool.subset(rows)
            shared = parent._cache
            cache = RoundCache(pool, shared.compute, has_model=shared.has_model, holds=shared.holds)
        selected = positions_of(parent.selected, rows)
        super().__init__(
            cache,
            budget=budget,
            index=parent.index,
            eligible=parent.eligible[rows],
            seed=parent.record.seed,
            selected=selected[selected >= 0],
            checkpoints=parent.checkpoints,
            state=dict(state),
            plan=plan,
            show_progress=show_progress,
        )
        self.parent, self.rows, self._initial_state = parent, rows, state

    def run(self, selector: Selector) -> np.ndarray:
        """Run a selector on these rows and return row numbers of the parent.

        Raises:
            Interrupted: Ctrl-C was pressed; holds row numbers of the parent.
        """
        try:
            rows: np.ndarray = self.rows[run_selector(selector, self)]
        except Interrupted as stop:
            raise Interrupted(self.rows[stop.selected]) from None
        return rows

    def changed_state(self) -> dict[str, np.ndarray]:
        """Return the arrays of `state` that were set in this round."""
        return {name: array for name, array in self.state.items() if array is not self._initial_state.get(name)}

    def warn_once(self, message: str) -> None:
        """Log a warning once for all groups; see `RoundContext.warn_once`."""
        self.parent.warn_once(message)

    def exclude(self, reason: str, rows: np.ndarray) -> None:
        """Count rows as excluded, in the parent; see `RoundContext.exclude`."""
        self.parent.exclude(reason, self.rows[rows])

    def excluded_rows(self) -> dict[str, np.ndarray]:
        """Return the rows of this view (int64, ascending) that are excluded for each reason."""
        positions = {reason: positions_of(rows, self.rows) for reason, rows in self.parent.excluded_rows().items()}
        return {reason: np.sort(rows[rows >= 0]) for reason, rows in positions.items() if (rows >= 0).any()}

    def _record_weights(self, rows: np.ndarray, weights: np.ndarray) -> None:
        self.parent._record_weights(self.rows[rows], weights)

    def row_number(self, row: int) -> int:
        """Return the number of a row in the user's dataset, for messages."""
        return self.parent.row_number(self.rows[row])

    def column(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Return a numeric column of the dataset; see `RoundContext.column`."""
        numbers: np.ndarray = self.parent.column(name)[self._parent_rows(rows)]
        return numbers

    def _cached_text_vectors(self, texts: tuple[str, ...], embedding: Embedding) -> np.ndarray:
        return self.parent._cached_text_vectors(texts, embedding)

    def _sort_keys(self, name: str) -> np.ndarray:
        keys: np.ndarray = self.parent._sort_keys(name)[self.rows]
        return keys

    def _parent_rows(self, rows: np.ndarray | None) -> np.ndarray:
        return self.rows if rows is None else self.rows[rows]


class GroupView(SubsetView):
    """Context of one group of rows, such as a cluster or a source.

    Scores and vectors are those of the parent, which computes them for all of its rows at once. Random numbers and
    `state` are the group's own, and its plan has the group's share of each budget.

    Args:
        parent: The round, or another view.
        rows: Row numbers of the group in the parent, int64.
        budget: Number of rows to select.
        number: Number of the group, which seeds its random numbers.
        name: Name of the group.
        state: Arrays that the group stored in earlier rounds.
        earlier: Earlier view of the same group in the same round, whose cache is used again.

    Attributes:
        name: Name of the group.
    """

    def __init__(
        self,
        parent: RoundContext,
        rows: np.ndarray,
        budget: int,
        number: int,
        name: str,
        state: dict[str, np.ndarray],
        earlier: GroupView | None = None,
    ):
        share = budget / max(parent.budget, 1)
        super().__init__(
            parent,
            rows,
            budget=budget,
            state=state,
            cache=None if earlier is None else earlier._cache,
            plan=tuple(replace(step, budget=max(math.ceil(step.budget * share), 1)) for step in parent.plan),
            show_progress=False,
        )
        self.name = name
        # Generators that a selector spawns from `rng` have a longer key, so that none equals that of a group.
        self._spawn_key = (*parent._spawn_key, 1, number)
        entropy = [parent.record.seed, parent.index]
        self.rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=self._spawn_key))
        self.record = parent.record.for_group(self.record.pool)

    def score(self, score: Score, rows: np.ndarray | None = None, optional: bool = False) -> dict[str, np.ndarray]:
        """Compute a score in the parent, for all of its rows unless some rows are requested; see `RoundContext`."""
        if rows is not None and (optional or not np.array_equal(rows, np.arange(len(self.rows)))):
            return self.parent.score(score, self.rows[rows], optional)
        columns = self.parent.score(score, optional=optional)
        return {name: take_rows(values, self.rows) for name, values in columns.items()}

    def describe_mix(self, mix: Mix, row: int) -> str:
        """Return a sentence on a mix, whose ranks are among the rows of the parent; see `RoundContext`."""
        return self.parent.describe_mix(mix, int(self.rows[row]))

    def vectors(self, source: str | Embedding, rows: np.ndarray | None = None) -> np.ndarray:
        """Return one vector per row; see `RoundContext.vectors`."""
        return take_rows(self.parent.vectors(source), self._parent_rows(rows))

    def target_copies(self, target: TargetRows) -> np.ndarray:
        """Return the target row that each row repeats; see `RoundContext.target_copies`."""
        return take_rows(self.parent.target_copies(target), self.rows)


class FilteredView(SubsetView):
    """Context of the rows that filters keep, in which a selector selects as from a dataset of these rows.

    Scores and vectors are computed for these rows only. Random numbers, the log and progress bars are the parent's.

    Args:
        parent: The round, or another view.
        rows: Row numbers that are kept, int64, ascending.
        state: Arrays that the earlier rounds of this view stored.
    """

    def __init__(self, parent: RoundContext, rows: np.ndarray, state: dict[str, np.ndarray]):
        super().__init__(
            parent,
            rows,
            budget=parent.budget,
            state=state,
            plan=parent.plan,
            show_progress=parent._show_progress,
        )
        self._spawn_key, self.rng = parent._spawn_key, parent.rng
        self.record = parent.record.for_filtered(self.record.pool)

    def run(self, selector: Selector) -> np.ndarray:
        """Run a selector on these rows, add the scores to the parent's record and return row numbers of the parent."""
        record = self.parent.record
        caller, record.caller = record.caller, type(selector).__name__  # for the messages of the parent
        rows = super().run(selector)
        record.caller = caller
        for name, (scored_rows, values) in self.record.scored.items():
            record.scored[name] = self.rows[scored_rows], values
        return rows

    def score(self, score: Score, rows: np.ndarray | None = None, optional: bool = False) -> dict[str, np.ndarray]:
        """Compute a score for these rows only; see `RoundContext.score`."""
        if isinstance(score, Mix):  # whose ranks are among these rows
            return super().score(score, rows, optional)
        return self.parent.score(score, self._parent_rows(rows), optional)

    def vectors(self, source: str | Embedding, rows: np.ndarray | None = None) -> np.ndarray:
        """Return one vector per row; see `RoundContext.vectors`."""
        return self.parent.vectors(source, self._parent_rows(rows))
