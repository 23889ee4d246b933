"""The most typical rows of every cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.cluster_selector import ClusterSelector
from hf_datasel.rounds.context import Round
from hf_datasel.strategies.clusters import nearest_per_cluster

__all__ = ["KMClosest"]


@dataclass(frozen=True)
class KMClosest(ClusterSelector):
    """The rows nearest to the centre of each cluster: kM-Closest. Ties go to the lower row number.

    Reference: Yu et al. 2024 (2409.11378), section 3.3; `shares="proportional"`, the default, is the paper's,
    `"equal"` its code's.
    """

    distance: str = "cluster_distance"
    """Column of the distances to the centres, for `clusters` that is a column too."""

    title: ClassVar[str] = "kM-Closest"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.distance, str) or not self.distance:
            raise ConfigError(f"KMClosest(distance={self.distance!r}): it has to be the name of a column.")

    def way(self, round: Round) -> str:
        return "those nearest to its centre"

    def choose(self, round: Round) -> np.ndarray:
        ids, distance = self.members(round)
        if distance is None:
            distance = round.column(self.distance)
        budget = self.budget(round, ids, distance, self.distance)
        return nearest_per_cluster(distance, ids, budget, self.shares)
