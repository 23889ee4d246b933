"""kMQ: rows of each cluster, drawn by their quality."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, get_args

import numpy as np

from hf_datasel.errors import check_option
from hf_datasel.rounds.cluster_selector import ClusterSelector
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import check_number, check_source, column_name
from hf_datasel.strategies.clusters import Weights, sample_per_cluster

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Score

__all__ = ["KMQ"]


@dataclass(frozen=True)
class KMQ(ClusterSelector):
    """Rows drawn at random from each cluster, with a probability that grows with their quality: k-means-quality, kMQ.

    Quality may be any number: `KMQ(quality="reward")` reads a column, `KMQ(quality=Reward("name or path"))` computes
    it. Rows without a quality are never drawn.

    Cost: embeddings, k-means and the quality of all rows.

    Reference: Yu et al. 2024 (2409.11378), section 2.1. Paper and code differ:

    - The paper draws in proportion to the quality (Eq. 3), which is `weights="proportional"` and needs a quality of 0
      or more. The code draws by the softmax of the quality, the default here, but rounds it down to an integer first.
    - The paper draws with replacement, the code without. Here a row is drawn at most once.
    - The paper takes shares proportional to the size of the clusters, the default. The code takes the same number of
      rows from each, which is `shares="equal"`.

    The quality in the paper is that of Deita's scorer, and k is 512 to 2,048 for 50 to 200 thousand rows.

    Args:
        clusters: Column of cluster numbers, or `Cluster(k=...)`, which is fitted to `vectors` if it has no centroids.
        shares: Shares of the budget: `"proportional"` to the size of a cluster, or `"equal"`.
        vectors: Column or `Embedding(...)` that a `Cluster` without centroids is fitted to.
        quality: Name of a numeric column, or a score.
        weights: `"softmax"` of the quality, or `"proportional"` to it.
        temperature: What the quality is divided by before the softmax, above 0. A lower temperature favours the
            highest qualities more.
    """

    quality: str | Score = field(kw_only=True)
    weights: Weights = "softmax"
    temperature: float = 1.0

    title: ClassVar[str] = "kMQ"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source(self, "quality")
        check_number(self, "temperature", 0, exclude_low=True)
        check_option(f"{type(self).__name__}(weights={self.weights!r})", self.weights, get_args(Weights))

    def describe_sampling(self, context: RoundContext) -> str:
        """Return how rows are selected from a cluster, for a sentence."""
        return f"drawn at random by {column_name(self.quality)}, with seed {context.record.seed}"

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows of this round, drawn from each cluster by their quality."""
        ids, _ = self.members(context)
        name = column_name(self.quality)
        quality = np.where(ids >= 0, context.values(self.quality), np.nan)  # rows in no cluster may have any quality
        return sample_per_cluster(
            quality,
            ids,
            self.cluster_budget(context, ids, quality, name),
            context.rng.spawn(1)[0],  # so that the draw differs from that of KMRandom with the same seed
            temperature=self.temperature,
            weights=self.weights,
            shares=self.shares,
        )
