"""Filters one after the other, then a selector that chooses from what they leave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_datasel.errors import ConfigError, SelectionError
from hf_datasel.rounds.context import Round, RoundPlan
from hf_datasel.rounds.positions import place_of
from hf_datasel.rounds.run import shortfall
from hf_datasel.rounds.selector import RowFilter, Selector
from hf_datasel.rounds.views import RestOfRound, groups_of, whole_of
from hf_datasel.selectors.all import All

__all__ = ["Chain"]

_LEFT_OUT, _RECORD, _THEN = "left_out", "record", "then/"


@dataclass(frozen=True)
class Chain(Selector):
    """What another selector chooses from the rows that filters leave, each of which sees what the ones before kept.

    The choice is the one that `then` makes from a dataset of these rows alone, at the same budget. A score is computed
    for the rows that are still there, so put what is cheap first. The filters are asked once, in the first round:
    later rounds choose from the same rows. Rounds are planned before that: a ratio or size is of the whole pool, and
    so is a share of it that `then` asks for itself, such as the `warmup_ratio` of `LESS`. A budget above what is left
    is refused in the first round, whichever round it is of, with how many rows were left out, and why.

    Any `RowFilter` will do; one of your own is named in recipes by its module and class, as selectors are.

    >>> from hf_datasel.selectors import InRange, NoNearCopies, Random
    >>> Chain([InRange("num_tokens", 10, 2048), NoNearCopies(by="ifd")], Random()).filters[0].low
    10
    """

    filters: Sequence[RowFilter]
    """In this order."""
    then: Selector
    """What chooses from the rows that are left."""

    def __post_init__(self) -> None:
        if not isinstance(self.filters, list | tuple):
            given = f"{type(self.filters).__name__}(...)" if isinstance(self.filters, RowFilter) else self.filters
            raise ConfigError(
                f"Chain(filters={given}): it has to be a list of filters, which recipes write as "
                "filters: [{filter: in_range, by: num_tokens, low: 10}]."
            )
        for each in self.filters:
            if not isinstance(each, RowFilter):
                raise ConfigError(
                    f"Chain(filters=[{each!r}]): it has to be a filter such as InRange('num_tokens', low=10), which "
                    "recipes write as {filter: in_range, by: num_tokens, low: 10}."
                )
        if not isinstance(self.then, Selector):
            named = self.then if isinstance(self.then, str) else "random"
            raise ConfigError(
                f"Chain(then={self.then!r}): it has to be a selector, such as Random(), which recipes write as "
                f"then: {{selector: {named}}}."
            )
        if isinstance(self.then, All):
            raise ConfigError(
                "Chain(then=All()): All takes the whole pool whatever the budget. Keep rows with "
                "Dataset.filter(hf_datasel.selection.Between(...)), or choose as many as are left with Random()."
            )
        object.__setattr__(self, "filters", tuple(self.filters))
        object.__setattr__(self, "reselects", self.then.reselects)
        object.__setattr__(self, "nested", self.then.nested)

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        return self.then.plan(total_budget, num_epochs, pool_size)

    def check_training(self, args: Any) -> None:
        self.then.check_training(args)

    def choose(self, round: Round) -> np.ndarray:
        known = _LEFT_OUT in round.state
        rows = _known(round) if known else self._filtered(round)
        if not len(rows):
            return rows
        if not known:
            _check_later(round, len(rows))
        before = {name: each for name, each in round.state.items() if name.startswith(_THEN)}
        rest = RestOfRound(round, rows, {name.removeprefix(_THEN): each for name, each in before.items()})
        chosen = rest.answer(self.then)
        round.state.update({f"{_THEN}{name}": each for name, each in rest.state.items()})
        return chosen

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        rows = np.flatnonzero(round.eligible)
        for each in self.filters:
            kept = _kept(each, round, rows)
            if row not in kept:
                why = [reason for reason, at in round.rows_left_out().items() if row in at]
                return [f"{type(each).__name__} left it out: {why[0]}.", *each.explain(round, kept, row)]
            rows = kept
        rest = RestOfRound(round, rows, {})
        places = place_of(chosen, rows)
        said = f"It is one of {len(rows):,} rows that the filters left."
        return [said, *self.then.explain(rest, places[places >= 0], int(np.searchsorted(rows, row)))]

    def _filtered(self, round: Round) -> np.ndarray:
        """The rows that are left, with what later rounds have to know of the others in the state."""
        rows = np.flatnonzero(round.eligible)
        for each in self.filters:
            rows = _kept(each, round, rows)
        reasons = {reason: np.setdiff1d(at, rows) for reason, at in round.rows_left_out().items()}
        codes = np.zeros(len(round.rows), dtype=np.int32)
        for code, at in enumerate(reasons.values(), 1):
            codes[at] = code
        record = {"reasons": list(reasons), **{name: getattr(round, name) for name in _RECORDED}}
        round.state[_LEFT_OUT] = codes
        round.state[_RECORD] = np.array([json.dumps(record, default=str)])
        return rows


_RECORDED = ("specs", "columns_used", "columns_known")
"""What a round records of the scores and columns that it goes by."""


def _known(round: Round) -> np.ndarray:
    """The rows that were left in the first round; what that went by is recorded in this one too."""
    codes, record = round.state[_LEFT_OUT], json.loads(str(round.state[_RECORD][0]))
    for code, reason in enumerate(record["reasons"], 1):
        round.leave_out(reason, np.flatnonzero(codes == code))
    for name in _RECORDED:
        there: list[Any] = getattr(round, name)
        there += [each for each in record[name] if each not in there]
    rows: np.ndarray = np.flatnonzero(round.eligible & (codes == 0))
    return rows


def _check_later(round: Round, left: int) -> None:
    """Refuse a budget of a later round above the rows that are left, before anything is trained.

    What is asked of a group in a later round is known only then, and what it cannot give comes from the others.

    Raises:
        SelectionError: says which budget, and why rows are left out.
    """
    most = max((each.budget for each in round.plan[round.index + 1 :]), default=0)
    if round.budget <= left < most and not groups_of(round):
        raise shortfall(whole_of(round), left, f"A round of {most:,} rows")


def _kept(filter: RowFilter, round: Round, rows: np.ndarray) -> np.ndarray:
    """What a filter keeps of rows, held against what it may answer.

    Raises:
        SelectionError: rows that it was not asked about, or no row numbers.
    """
    if not len(rows):
        return rows
    name, asker = type(filter).__name__, round.asker
    round.asker = name
    answer = np.asarray(filter.keep(round, rows))
    round.asker = asker
    if answer.ndim != 1 or (answer.size and not np.issubdtype(answer.dtype, np.integer)):
        raise SelectionError(f"{name}.keep returned {answer.dtype} of shape {answer.shape}, not row numbers.")
    kept = np.unique(answer.astype(np.int64))
    if not np.isin(kept, rows).all():
        raise SelectionError(f"{name}.keep returned rows that it was not asked about.")
    round.leave_out(f"left out by {name}", np.setdiff1d(rows, kept, assume_unique=True))
    return kept
