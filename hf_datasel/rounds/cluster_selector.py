"""Base class of selectors that divide the budget over clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from hf_datasel.errors import check_option
from hf_datasel.rounds.selector import Selector, check_source
from hf_datasel.scores import RewardGap

if TYPE_CHECKING:
    from hf_datasel.rounds.context import RoundContext
    from hf_datasel.scores import Cluster, Embedding

__all__ = ["ClusterSelector"]


@dataclass(frozen=True)
class ClusterSelector(Selector):
    """Selector of rows from every cluster, in proportion to the size of the cluster or the same number from each.

    The size of a cluster is the number of its rows that can be selected. Where a cluster has fewer rows than its
    share, the other clusters get the remainder, so that the budget is met exactly.

    Args:
        clusters: Column of cluster numbers, or `Cluster(k=...)`, which is fitted here if it has no centroids.
        shares: Shares of the budget: `"proportional"` to the size of a cluster, or `"equal"`.
        vectors: What a `Cluster` without centroids is fitted to: a column, or `Embedding(...)`.
    """

    clusters: str | Cluster = "cluster_id"
    shares: Literal["proportional", "equal"] = "proportional"
    vectors: str | Embedding = "embedding"

    citation = RewardGap.citation

    def __post_init__(self) -> None:
        check_source(self, "clusters", "Cluster")
        check_source(self, "vectors", "Embedding")
        check_option(f"{type(self).__name__}(shares={self.shares!r})", self.shares, ("proportional", "equal"))

    def members(self, context: RoundContext) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the cluster of each eligible row, and the distance of each row to its centroid.

        Returns:
            Cluster numbers, int64 of shape (rows,), -1 for other rows; and distances, float64 of shape (rows,), or
            None where a column holds the cluster numbers.
        """
        ids, distance = context.clusters(self.clusters, self.vectors)
        context.exclude("in no cluster", np.flatnonzero(ids < 0))
        return np.where(context.eligible, ids, -1), distance

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return how many rows of the row's cluster were selected, and how."""
        ids, _ = self.members(context)
        if ids[row] < 0:
            return ["It is in no cluster."]
        size, num_selected = int((ids == ids[row]).sum()), int((ids[selected] == ids[row]).sum())
        return [
            f"Cluster {ids[row]} has {size:,} rows to select from, of which {num_selected:,} were selected: "
            f"{self.describe_sampling(context)}."
        ]

    def describe_sampling(self, context: RoundContext) -> str:
        """Return how rows are selected from a cluster, as the end of a sentence."""
        return f"drawn at random, with seed {context.record.seed}"

    def cluster_budget(self, context: RoundContext, ids: np.ndarray, values: np.ndarray, name: str) -> int:
        """Return the number of rows to select: the budget, or the rows with a cluster and a value if these are fewer.

        Args:
            context: Context of the round. Rows without a value are counted as excluded.
            ids: Cluster of each row, int64 of shape (rows,), below 0 for none.
            values: Value of each row, float64 of shape (rows,).
            name: Name of the column of values.
        """
        rows = np.flatnonzero(ids >= 0)
        return min(context.budget, len(context.candidates(values[rows], rows, name=name)))
