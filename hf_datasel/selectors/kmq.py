"""Good rows of every cluster, drawn by their quality."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.selectors.base import check_number, check_source
from hf_datasel.selectors.clustered import Clustered
from hf_datasel.selectors.round import Round
from hf_datasel.strategies.clusters import sample_per_cluster

if TYPE_CHECKING:
    from hf_datasel.scores import Score

__all__ = ["KMQ"]


@dataclass(frozen=True)
class KMQ(Clustered):
    """Rows drawn from each cluster with a probability that grows with their quality: k-means-quality, kMQ.

    Quality may be any number: `KMQ(quality="reward")` reads a column, `KMQ(quality=Reward("name or path"))` computes
    it. Rows without one are never drawn.

    Reference: Yu et al. 2024 (2409.11378), section 2.1. The paper draws in proportion to the quality,
    `weights="proportional"`, which has to be 0 or more then, and over clusters in proportion to their size; its code
    by softmax of the quality, the same number of rows from each cluster, `shares="equal"`. Here a row is drawn once at
    most. The paper's k is 512 to 2,048 at 50 to 200 thousand rows.
    """

    quality: str | Score = field(kw_only=True)
    weights: Literal["softmax", "proportional"] = "softmax"
    temperature: float = 1.0
    """Of the softmax: lower draws nearer to the highest qualities."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source(self, "quality")
        check_number(self, "temperature", 0, open_low=True)
        if self.weights not in ("softmax", "proportional"):
            raise ConfigError(f"KMQ(weights={self.weights!r}): it has to be 'softmax' or 'proportional'.")

    def choose(self, round: Round) -> np.ndarray:
        ids, _ = self.members(round)
        name = self.quality if isinstance(self.quality, str) else self.quality.value_column
        candidates = round.candidates(quality := round.values(self.quality), np.arange(len(ids)), name=name)
        budget = min(round.budget, int((ids[candidates] >= 0).sum()))
        return sample_per_cluster(
            np.where(round.eligible, quality, np.nan),
            ids,
            budget,
            round.rng,
            temperature=self.temperature,
            weights=self.weights,
            shares=self.shares,
        )
