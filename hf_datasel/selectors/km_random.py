"""Any rows of every cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_datasel.rounds.cluster_selector import ClusterSelector
from hf_datasel.rounds.context import Round
from hf_datasel.strategies.clusters import sample_per_cluster

__all__ = ["KMRandom"]


@dataclass(frozen=True)
class KMRandom(ClusterSelector):
    """Rows drawn uniformly from each cluster: kM-Random.

    Reference: Yu et al. 2024 (2409.11378), sections 2.1 and 3.3; `shares="proportional"`, the default, is the paper's,
    `"equal"` its code's.
    """

    title: ClassVar[str] = "kM-Random"

    def choose(self, round: Round) -> np.ndarray:
        ids, _ = self.members(round)
        return sample_per_cluster(None, ids, min(round.budget, int((ids >= 0).sum())), round.rng, shares=self.shares)
