"""Token length within clusters: the longest rows of each cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_datasel.rounds.cluster_selector import ClusterSelector
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import check_source, column_name
from hf_datasel.scores import Length
from hf_datasel.strategies.clusters import top_per_cluster

__all__ = ["LengthKM"]


@dataclass(frozen=True)
class LengthKM(ClusterSelector):
    """Longest rows of each cluster, by the number of tokens of prompt and response.

    Ties go to the lower row number. Other measures of length: `by=Length()`, which counts the words of the response,
    or a column such as `by="response_tokens"`.

    Cost: embeddings and k-means.

    Reference: Xia et al. 2024 (2410.09335), section 5.4, who find it the most stable selection, above all for weaker
    base models. Shares proportional to the size of a cluster are those of the paper, which gives no number of clusters
    for this experiment.

    Args:
        clusters: Column of cluster numbers, or `Cluster(k=...)`, which is fitted to `vectors` if it has no centroids.
        shares: Shares of the budget: `"proportional"` to the size of a cluster, or `"equal"`.
        vectors: Column or `Embedding(...)` that a `Cluster` without centroids is fitted to.
        by: `Length(...)`, or the name of a column.
    """

    by: str | Length = Length("tokens")

    title: ClassVar[str] = "Length within clusters"
    citation = (
        "@article{xia2024rethinking, title={Rethinking Data Selection at Scale: Random Selection is Almost All You "
        "Need}, author={Xia, Tingyu and Yu, Bowen and Dang, Kai and Yang, An and Wu, Yuan and Tian, Yuan and Chang, "
        "Yi and Lin, Junyang}, journal={arXiv preprint arXiv:2410.09335}, year={2024}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source(self, "by", "Length")

    def describe_sampling(self, context: RoundContext) -> str:
        """Return how rows are selected from a cluster, for a sentence."""
        return "the longest"

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the longest rows of the clusters, in the shares of the clusters."""
        ids, _ = self.members(context)
        name = column_name(self.by)
        length = context.values(self.by)
        return top_per_cluster(length, ids, self.cluster_budget(context, ids, length, name), self.shares)
