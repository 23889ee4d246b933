"""Long rows of every cluster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_datasel.scores import Length
from hf_datasel.selectors.base import check_source
from hf_datasel.selectors.clustered import Clustered
from hf_datasel.selectors.round import Round
from hf_datasel.strategies.clusters import top_per_cluster

__all__ = ["LengthKM"]


@dataclass(frozen=True)
class LengthKM(Clustered):
    """The longest rows of each cluster, by the tokens of prompt and response together; ties go to the lower row.

    Reference: Xia et al. 2024 (2410.09335), section 5.3, who take it for the best of all on long-winded data. Other
    measures of length: `by=Length()`, words of the response, or a column.
    """

    by: str | Length = Length("tokens")

    citation = (
        "@article{xia2024rethinking, title={Rethinking Data Selection at Scale: Random Selection is Almost All You "
        "Need}, author={Xia, Tingyu and Yu, Bowen and Dang, Kai and Yang, An and Wu, Yuan and Tian, Yuan and Chang, "
        "Yi and Lin, Junyang}, journal={arXiv preprint arXiv:2410.09335}, year={2024}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source(self, "by", "Length")

    def choose(self, round: Round) -> np.ndarray:
        ids, _ = self.members(round)
        name = self.by if isinstance(self.by, str) else self.by.value_column
        candidates = round.candidates(length := round.values(self.by), np.arange(len(ids)), name=name)
        budget = min(round.budget, int((ids[candidates] >= 0).sum()))
        return top_per_cluster(length, ids, budget, self.shares)
