"""Base class of selectors that train a warm-up before they select."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.selector import Selector, check_number

__all__ = ["WarmupSelector"]


@dataclass(frozen=True)
class WarmupSelector(Selector):
    """Selector with two rounds: a warm-up on a few rows, then one selection with the model that it trained.

    The budget is that of the second round, which starts from the base model again and trains for all of
    `num_train_epochs`. It may select rows of the warm-up again. A subclass implements the size of the warm-up and the
    selector of each round.

    Args:
        warmup_epochs: Number of epochs on the rows of the warm-up.

    Attributes:
        keeps_checkpoints: Whether the second round reads a checkpoint from the end of each epoch of the warm-up.
    """

    warmup_epochs: float = field(default=1.0, kw_only=True)

    keeps_checkpoints: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number(self, "warmup_epochs", 0, exclude_low=True)

    @abstractmethod
    def warmup_budget(self, pool_size: int) -> int:
        """Return the number of rows of the warm-up.

        Args:
            pool_size: Number of rows that can be selected.
        """

    @abstractmethod
    def warmup(self, context: RoundContext) -> Selector:
        """Return the selector of the rows of the warm-up."""

    @abstractmethod
    def final(self, context: RoundContext) -> Selector:
        """Return the selector that runs after the warm-up."""

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        """Return the warm-up and the round that trains on the rows selected after it.

        Raises:
            ConfigError: The warm-up has more rows than can be selected.
        """
        num_rows = self.warmup_budget(pool_size)
        if num_rows > pool_size > 0:  # an empty pool raises its own error elsewhere
            raise ConfigError(
                f"{type(self).__name__} warms up on {num_rows:,} rows, and only {pool_size:,} can be trained on. "
                "Lower warmup_size."
            )
        return (
            RoundPlan(
                min(num_rows, pool_size), self.warmup_epochs, checkpoints=self.keeps_checkpoints, kind="warm-up"
            ),
            RoundPlan(total_budget, num_epochs, restart=True),
        )

    def select(self, context: RoundContext) -> np.ndarray:
        """Return what the selector of this round selects."""
        return self._selector(context).select(context)

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return the sentences of the selector of this round."""
        sentences = self._selector(context).explain(context, selected, row)
        return sentences if context.index else ["These are the rows of the warm-up.", *sentences]

    def _selector(self, context: RoundContext) -> Selector:
        return self.final(context) if context.index else self.warmup(context)
