"""What selectors share whose choice grows from round to round, each round with the model that the last one trained."""

from __future__ import annotations

import functools
import logging
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_datasel.errors import ConfigError, Interrupted
from hf_datasel.rounds.context import Round, RoundPlan
from hf_datasel.rounds.selector import Selector, check_number, round_off
from hf_datasel.rounds.views import groups_of

__all__ = ["GrowingSelector"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GrowingSelector(Selector):
    """Rows that are added in several rounds, about as many in each, and trained on with all rows of the rounds before.

    A subclass writes `add`. The budget is that of the last round: round i, from 0, trains on `(i + 1) / rounds` of it,
    rounded down.
    """

    rounds: int = field(kw_only=True)
    """How many, each with its share of the budget."""
    restart_each_round: bool = field(kw_only=True)
    """Train each round anew from the base model, for all of `num_train_epochs`; otherwise the model is trained on, and
    the rounds share the epochs."""

    def check_rounds(self) -> None:
        """Refuse rounds that cannot be; for `__post_init__`.

        Raises:
            ConfigError: says what they have to be.
        """
        check_number(self, "rounds", 1, whole=True)
        if not isinstance(self.restart_each_round, bool):
            name = f"{type(self).__name__}(restart_each_round={self.restart_each_round!r})"
            raise ConfigError(f"{name}: it has to be true or false.")

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        """Rounds that grow to the budget. Less than an epoch for each is logged, since rows then go untrained.

        Raises:
            ConfigError: fewer rows than rounds.
        """
        if total_budget < self.rounds:
            raise ConfigError(
                f"{type(self).__name__}(rounds={self.rounds}) adds at least one row a round, and the budget is "
                f"{total_budget:,}. Raise the budget (selection_size, selection_ratio), or lower rounds."
            )
        if not self.restart_each_round and self.rounds > max(num_epochs, 1):
            _say_less_than_an_epoch(type(self).__name__, num_epochs, self.rounds)
        epochs = num_epochs if self.restart_each_round else round_off(num_epochs / self.rounds)
        budgets = [(at + 1) * total_budget // self.rounds for at in range(self.rounds)]
        return tuple(
            RoundPlan(budget, epochs, restart=self.restart_each_round and at > 0, kind="growing")
            for at, budget in enumerate(budgets)
        )

    def choose(self, round: Round) -> np.ndarray:
        """The rows of the rounds before, and then the new ones, as many as the budget has room for."""
        before = round.chosen[: round.budget]
        self.note(round, {"rows_before": len(before)})
        try:
            new = self.add(round, round.budget - len(before))
        except Interrupted as stop:
            raise Interrupted(np.concatenate([before, stop.chosen])) from None
        return np.concatenate([before, new])

    @abstractmethod
    def add(self, round: Round, rows: int) -> np.ndarray:
        """So many eligible rows that are not in `round.chosen`, best first; fewer where there are no more."""

    def note(self, round: Round, notes: dict[str, Any]) -> None:
        """Record what the choice depends on; of a part of a round, under the name of its group."""
        record = round.notes
        for name in groups_of(round):
            record = record.setdefault("groups", {}).setdefault(name, {})
        record |= notes

    def when(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        """In which round a row was chosen, as far as one can tell, for `explain`."""
        at = np.flatnonzero(chosen == row)
        if not round.index or not len(at) or round.path:
            return []
        return ["It is new in this round." if at[0] >= self.before(round) else "It was chosen in an earlier round."]

    def before(self, round: Round) -> int:
        """How many of the rows chosen come from earlier rounds, for `explain`."""
        return int(round.notes.get("rows_before", len(round.chosen)))


@functools.lru_cache(maxsize=64)
def _say_less_than_an_epoch(name: str, epochs: float, rounds: int) -> None:
    """Once a process: a run is planned several times."""
    logger.warning(
        "%s: num_train_epochs=%g is less than the %d rounds, so that no round trains on all of its rows: some are "
        "chosen and never trained on, and later rounds are chosen by a model that has not seen all rows before them. "
        "Raise num_train_epochs to %d, lower rounds, or set restart_each_round.",
        name,
        epochs,
        rounds,
        rounds,
    )
