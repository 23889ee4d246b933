"""kM-Closest: the rows nearest to the centre of each cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.cluster_selector import ClusterSelector
from hf_datasel.rounds.context import RoundContext
from hf_datasel.strategies.clusters import nearest_per_cluster

__all__ = ["KMClosest"]


@dataclass(frozen=True)
class KMClosest(ClusterSelector):
    """Rows nearest to the centre of each cluster: kM-Closest.

    Ties go to the lower row number.

    Cost: embeddings and k-means.

    Reference: Yu et al. 2024 (2409.11378), section 3.3; `shares="proportional"`, the default, is that of the paper,
    `"equal"` that of its code.

    Args:
        clusters: Column of cluster numbers, or `Cluster(k=...)`, which is fitted to `vectors` if it has no centroids.
        shares: Shares of the budget: `"proportional"` to the size of a cluster, or `"equal"`.
        vectors: Column or `Embedding(...)` that a `Cluster` without centroids is fitted to.
        distance: Column of the distances to the centres, used where `clusters` is a column too.
    """

    distance: str = "cluster_distance"

    title: ClassVar[str] = "kM-Closest"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.distance, str) or not self.distance:
            raise ConfigError(f"KMClosest(distance={self.distance!r}): it has to be the name of a column.")

    def describe_sampling(self, context: RoundContext) -> str:
        """Return how rows are selected from a cluster, for a sentence."""
        return "those nearest to its centre"

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows nearest to the centres, in the shares of the clusters."""
        ids, distance = self.members(context)
        if distance is None:
            distance = context.column(self.distance)
        budget = self.cluster_budget(context, ids, distance, self.distance)
        return nearest_per_cluster(distance, ids, budget, self.shares)
