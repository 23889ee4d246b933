"""Base class of selectors that add rows in several rounds."""

from __future__ import annotations

import functools
import logging
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_datasel.errors import ConfigError, Interrupted
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.selector import Selector, check_number, round_epochs
from hf_datasel.rounds.views import group_names

__all__ = ["IncrementalSelector"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IncrementalSelector(Selector):
    """Selector that adds about as many rows in each of several rounds, each with the model trained in the last one.

    A round trains on the rows of all rounds so far: round i, counted from 0, has `(i + 1) / rounds` of the budget,
    rounded down. A subclass implements `add`.

    Args:
        rounds: Number of rounds.
        restart_each_round: Whether each round trains from the base model, for all of `num_train_epochs`. Otherwise
            training continues, and the rounds share the epochs.
    """

    rounds: int = field(kw_only=True)
    restart_each_round: bool = field(kw_only=True)

    def check_rounds(self) -> None:
        """Check `rounds` and `restart_each_round`; call it in `__post_init__`.

        Raises:
            ConfigError: Names the values that are possible.
        """
        check_number(self, "rounds", 1, integer=True)
        if not isinstance(self.restart_each_round, bool):
            name = f"{type(self).__name__}(restart_each_round={self.restart_each_round!r})"
            raise ConfigError(f"{name}: it has to be true or false.")

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        """Return rounds that grow to the budget, and log a warning if a round has less than one epoch.

        Raises:
            ConfigError: The budget has fewer rows than there are rounds.
        """
        if total_budget < self.rounds:
            raise ConfigError(
                f"{type(self).__name__}(rounds={self.rounds}) adds at least one row in each round, and the budget is "
                f"{total_budget:,}. Raise the budget (selection_size, selection_ratio), or lower rounds."
            )
        if not self.restart_each_round and self.rounds > max(num_epochs, 1):
            _warn_less_than_one_epoch(type(self).__name__, num_epochs, self.rounds)
        epochs = num_epochs if self.restart_each_round else round_epochs(num_epochs / self.rounds)
        return tuple(
            RoundPlan(
                (index + 1) * total_budget // self.rounds,
                epochs,
                restart=self.restart_each_round and index > 0,
                kind="growing",
            )
            for index in range(self.rounds)
        )

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows of the earlier rounds, then new rows up to the budget."""
        earlier = context.selected[: context.budget]
        self.add_notes(context, {"rows_before": len(earlier)})
        try:
            new = self.add(context, context.budget - len(earlier))
        except Interrupted as stop:
            raise Interrupted(np.concatenate([earlier, stop.selected])) from None
        return np.concatenate([earlier, new])

    @abstractmethod
    def add(self, context: RoundContext, rows: int) -> np.ndarray:
        """Return new row numbers, best first.

        Args:
            context: Context of the round.
            rows: Number of rows to add.

        Returns:
            Eligible row numbers that are not in `context.selected`; fewer than `rows` if there are no more.
        """

    def add_notes(self, context: RoundContext, notes: dict[str, Any]) -> None:
        """Add JSON values to the notes of the round; inside a group, under the name of the group."""
        target = context.record.notes
        for name in group_names(context):
            target = target.setdefault("groups", {}).setdefault(name, {})
        target |= notes

    def describe_round(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return a sentence on the round in which a row was selected, if that is known, for `explain`."""
        ranks = np.flatnonzero(selected == row)
        if not context.index or not len(ranks) or group_names(context):
            return []
        new = ranks[0] >= self.num_rows_before(context)
        return ["It is new in this round." if new else "It was selected in an earlier round."]

    def num_rows_before(self, context: RoundContext) -> int:
        """Return how many of the selected rows come from earlier rounds, for `explain`."""
        return int(context.record.notes.get("rows_before", len(context.selected)))


@functools.lru_cache(maxsize=64)
def _warn_less_than_one_epoch(name: str, epochs: float, rounds: int) -> None:
    """Log a warning once per process, since a run is planned several times."""
    logger.warning(
        "%s: num_train_epochs=%g is less than the %d rounds, so that no round trains on all of its rows: some are "
        "selected and never trained on, and later rounds are selected by a model that has not seen all earlier rows. "
        "Raise num_train_epochs to %d, lower rounds, or set restart_each_round.",
        name,
        epochs,
        rounds,
        rounds,
    )
