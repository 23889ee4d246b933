"""Good rows of every cluster, drawn by their quality."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.cluster_selector import ClusterSelector
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import check_number, check_source, column_of
from hf_datasel.strategies.clusters import sample_per_cluster

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Score

__all__ = ["KMQ"]


@dataclass(frozen=True)
class KMQ(ClusterSelector):
    """Rows drawn from each cluster with a probability that grows with their quality: k-means-quality, kMQ.

    Quality may be any number: `KMQ(quality="reward")` reads a column, `KMQ(quality=Reward("name or path"))` computes
    it. Rows without one are never drawn.

    Reference: Yu et al. 2024 (2409.11378), section 2.1. The paper draws in proportion to the quality (Eq. 3),
    `weights="proportional"`, for which it has to be 0 or more, with replacement; and from clusters in proportion to
    their size, which is the default. Its code draws by softmax of the quality, which is the default, cut to a whole
    number, which it is not here; without replacement; and the same number of rows from each cluster, `shares="equal"`.
    Here a row is drawn once at most. The paper's quality is that of Deita's scorer, its k 512 to 2,048 at 50 to 200
    thousand rows.
    """

    quality: str | Score = field(kw_only=True)
    weights: Literal["softmax", "proportional"] = "softmax"
    temperature: float = 1.0
    """Of the softmax: lower draws nearer to the highest qualities."""

    title: ClassVar[str] = "kMQ"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source(self, "quality")
        check_number(self, "temperature", 0, open_low=True)
        if self.weights not in ("softmax", "proportional"):
            raise ConfigError(
                f"{type(self).__name__}(weights={self.weights!r}): it has to be 'softmax' or 'proportional'."
            )

    def way(self, round: Round) -> str:
        return f"drawn at random by {column_of(self.quality)}, with seed {round.seed}"

    def choose(self, round: Round) -> np.ndarray:
        ids, _ = self.members(round)
        name = column_of(self.quality)
        quality = np.where(ids >= 0, round.values(self.quality), np.nan)  # of other rows it may be anything
        return sample_per_cluster(
            quality,
            ids,
            self.budget(round, ids, quality, name),
            round.rng.spawn(1)[0],  # another draw than that of KMRandom with the same seed
            temperature=self.temperature,
            weights=self.weights,
            shares=self.shares,
        )
