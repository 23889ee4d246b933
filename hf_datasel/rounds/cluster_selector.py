"""What selectors share that divide the budget over clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.selector import Selector, check_source
from hf_datasel.scores import RewardGap

if TYPE_CHECKING:
    from hf_datasel.rounds.context import Round
    from hf_datasel.scores import Cluster, Embedding

__all__ = ["ClusterSelector"]


@dataclass(frozen=True)
class ClusterSelector(Selector):
    """Rows of every cluster, in proportion to its size or the same number of each.

    Sizes are those among the rows that can be chosen. What a small cluster cannot give comes from the others, so that
    the budget is met exactly.
    """

    clusters: str | Cluster = "cluster_id"
    """Column of cluster numbers, or `Cluster(k=...)`, which is fitted here if it is not yet."""
    shares: Literal["proportional", "equal"] = "proportional"
    """Of the budget: in proportion to the rows of a cluster, or the same for each."""
    vectors: str | Embedding = "embedding"
    """What an unfitted `Cluster` is fitted to: a column, or `Embedding(...)`."""

    citation = RewardGap.citation

    def __post_init__(self) -> None:
        check_source(self, "clusters", "Cluster")
        check_source(self, "vectors", "Embedding")
        if self.shares not in ("proportional", "equal"):
            raise ConfigError(
                f"{type(self).__name__}(shares={self.shares!r}): it has to be 'proportional' or 'equal'."
            )

    def members(self, round: Round) -> tuple[np.ndarray, np.ndarray | None]:
        """The cluster of each row that can be chosen, int64, -1 for the others; and its distance to the centre.

        The distance is None where a column says which cluster a row is in.
        """
        ids, distance = round.clusters(self.clusters, self.vectors)
        round.leave_out("in no cluster", np.flatnonzero(ids < 0))
        return np.where(round.eligible, ids, -1), distance

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        ids, _ = self.members(round)
        if ids[row] < 0:
            return ["It is in no cluster."]
        inside, mine = int((ids == ids[row]).sum()), int((ids[chosen] == ids[row]).sum())
        return [
            f"Cluster {ids[row]} has {inside:,} rows to choose from, of which {mine:,} were chosen: {self.way(round)}."
        ]

    def way(self, round: Round) -> str:
        """How rows are chosen from a cluster, for a sentence."""
        return f"drawn at random, with seed {round.seed}"

    def budget(self, round: Round, ids: np.ndarray, values: np.ndarray, name: str) -> int:
        """How many rows to choose, at most those that are in a cluster and have a value; the others are counted."""
        rows = np.flatnonzero(ids >= 0)
        return min(round.budget, len(round.candidates(values[rows], rows, name=name)))
