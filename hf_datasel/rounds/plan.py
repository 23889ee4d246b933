"""Plan of a run: how many rows each round trains on, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["RoundPlan"]


@dataclass(frozen=True)
class RoundPlan:
    """One round of training.

    Args:
        budget: Number of rows to train on in this round.
        epochs: Number of epochs on these rows before the next round.
        restart: Whether to start this round from the base model, with a fresh optimizer and learning rate schedule.
            The rows are selected before that, with the model as the previous round left it.
        checkpoints: Whether to save a checkpoint with the optimizer's state after each epoch of this round.
        kind: `"selection"` is a selection of its own; `"warm-up"` rows train the model before the next selection;
            `"growing"` rows are those of the earlier rounds and new ones. Recorded with the selection.
    """

    budget: int
    epochs: float = 1.0
    restart: bool = False
    checkpoints: bool = False
    kind: Literal["selection", "warm-up", "growing"] = "selection"
