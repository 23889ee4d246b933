"""kM-Random: random rows of each cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_datasel.rounds.cluster_selector import ClusterSelector
from hf_datasel.rounds.context import RoundContext
from hf_datasel.strategies.clusters import sample_per_cluster

__all__ = ["KMRandom"]


@dataclass(frozen=True)
class KMRandom(ClusterSelector):
    """Rows drawn uniformly at random from each cluster: kM-Random.

    Cost: embeddings and k-means.

    Reference: Yu et al. 2024 (2409.11378), sections 2.1 and 3.3; `shares="proportional"`, the default, is that of the
    paper, `"equal"` that of its code.

    Args:
        clusters: Column of cluster numbers, or `Cluster(k=...)`, which is fitted to `vectors` if it has no centroids.
        shares: Shares of the budget: `"proportional"` to the size of a cluster, or `"equal"`.
        vectors: Column or `Embedding(...)` that a `Cluster` without centroids is fitted to.
    """

    title: ClassVar[str] = "kM-Random"

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows of this round, drawn from each cluster."""
        ids, _ = self.members(context)
        budget = min(context.budget, int((ids >= 0).sum()))
        return sample_per_cluster(None, ids, budget, context.rng, shares=self.shares)
