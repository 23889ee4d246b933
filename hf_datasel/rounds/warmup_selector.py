"""What selectors share that warm the model up before they choose."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.context import Round, RoundPlan
from hf_datasel.rounds.selector import Selector, check_number

__all__ = ["WarmedSelector"]


@dataclass(frozen=True)
class WarmedSelector(Selector):
    """Two rounds: a warm-up on a few rows, then one choice, with what the model has learnt by then.

    The budget is that of the second round, which begins from the base model again and is trained for all of
    `num_epochs`; it may choose rows of the warm-up again. A subclass says how many rows the warm-up has, and which
    selector chooses in each of the rounds.
    """

    warmup_epochs: float = field(default=1.0, kw_only=True)
    """Passes over the rows of the warm-up."""

    keeps_checkpoints: ClassVar[bool] = False
    """Whether the choice reads checkpoints of the warm-up, one after each of its epochs."""

    def __post_init__(self) -> None:
        check_number(self, "warmup_epochs", 0, open_low=True)

    @abstractmethod
    def warmup_budget(self, pool_size: int) -> int:
        """Rows of the warm-up, of so many that can be trained on."""

    @abstractmethod
    def warmup(self, round: Round) -> Selector:
        """Who chooses the rows of the warm-up."""

    @abstractmethod
    def final(self, round: Round) -> Selector:
        """Who chooses when the model has been warmed up."""

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        """The warm-up, and the round that trains what is chosen after it.

        Raises:
            ConfigError: the warm-up has more rows than can be trained on.
        """
        rows = self.warmup_budget(pool_size)
        if rows > pool_size > 0:  # a pool without any such row is refused with the reasons, elsewhere
            raise ConfigError(
                f"{type(self).__name__} warms up on {rows:,} rows, and only {pool_size:,} can be trained on. Lower "
                "warmup_size."
            )
        return (
            RoundPlan(min(rows, pool_size), self.warmup_epochs, checkpoints=self.keeps_checkpoints, kind="warm-up"),
            RoundPlan(total_budget, num_epochs, restart=True),
        )

    def choose(self, round: Round) -> np.ndarray:
        return self._chooser(round).choose(round)

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        said = self._chooser(round).explain(round, chosen, row)
        return said if round.index else ["These are the rows of the warm-up.", *said]

    def _chooser(self, round: Round) -> Selector:
        return self.final(round) if round.index else self.warmup(round)
