"""Long rows of every cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_datasel.rounds.cluster_selector import ClusterSelector
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import check_source, column_of
from hf_datasel.scores import Length
from hf_datasel.strategies.clusters import top_per_cluster

__all__ = ["LengthKM"]


@dataclass(frozen=True)
class LengthKM(ClusterSelector):
    """The longest rows of each cluster, by the tokens of prompt and response together; ties go to the lower row.

    Other measures of length: `by=Length()`, words of the response, or a column such as `by="response_tokens"`.

    Reference: Xia et al. 2024 (2410.09335), section 5.4, who find it the steadiest choice, above all for weaker base
    models. Shares proportional to size are the paper's; it gives no number of clusters for this experiment.
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

    def way(self, round: Round) -> str:
        return "the longest"

    def choose(self, round: Round) -> np.ndarray:
        ids, _ = self.members(round)
        name = column_of(self.by)
        length = round.values(self.by)
        return top_per_cluster(length, ids, self.budget(round, ids, length, name), self.shares)
