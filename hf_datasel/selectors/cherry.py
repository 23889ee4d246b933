"""IFD of a model that has seen some instructions before: Cherry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.cluster_selector import ClusterSelector
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.ranked_selector import Ranked
from hf_datasel.rounds.selector import Selector, check_number, check_source
from hf_datasel.rounds.warmup_selector import WarmedSelector
from hf_datasel.scores import IFD, Cluster, Embedding, PromptLoss
from hf_datasel.scores.prompt_loss import Convention
from hf_datasel.scoring.base import Score
from hf_datasel.selectors.within import interleaved
from hf_datasel.strategies.clusters import quotas, top_per_cluster

__all__ = ["Cherry"]

_HARDEST_BELOW = 1.0
_PERCENTILES = (1, 99)


@dataclass(frozen=True)
class Cherry(WarmedSelector):
    """The rows with the highest IFD below 1, of the model after a short warm-up on rows of every cluster.

    The warm-up takes the same number of rows from each cluster; what a small cluster cannot give comes from the
    others. The model then scores the whole pool, and training begins again from the base model. Rows of the warm-up
    may be chosen again.

    Reference: Li et al. 2024 (2308.12032), whose code warms up on 10 rows from each of 100 clusters of instructions
    for one epoch, `pick="perplexity"`; and Xia et al. 2024 (2410.09335), section 3.1, who take these 10 by the IFD of
    the base model, `pick="ifd"`, and from 1,000 clusters at a million rows. They do not say which end of the IFD: here
    it is the highest below 1, as in the choice. Vectors are those of Cherry's code, but for the prompt's wording: the
    mean of the base model's last hidden states over the instruction. `convention="cherry"` scores with its prompt.
    """

    warmup_size: int = field(default=1000, kw_only=True)
    """Rows of the warm-up."""
    pick: Literal["ifd", "perplexity"] = field(default="ifd", kw_only=True)
    """How rows of a cluster are picked for the warm-up: the highest IFD of the base model below 1; or, as in Cherry's
    code, in even steps through the rows, in dataset order, whose prompt has a perplexity between two percentiles of
    the cluster."""
    percentiles: tuple[float, float] = field(default=_PERCENTILES, kw_only=True)
    """Of the perplexity, for `pick="perplexity"`: those of Cherry's code; the commands that it was published with say
    25 and 75."""
    convention: Convention = field(default="sft", kw_only=True)
    """Of IFD, and of the prompt whose perplexity it is; see `IFD`."""
    ratio: Literal["perplexity", "loss"] = field(default="perplexity", kw_only=True)
    """`"loss"` divides the losses instead of the perplexities, as 2410.09335 (Eq. 2) and Cherry's script do."""
    clusters: str | Cluster = field(default=Cluster(k=100), kw_only=True)
    """Column of cluster numbers, or `Cluster(k=...)`, which is fitted here if it is not yet."""
    vectors: str | Embedding = field(default=Embedding(part="prompt", normalize=False), kw_only=True)
    """What an unfitted `Cluster` is fitted to: a column, or `Embedding(...)`."""

    citation = IFD.citation

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "warmup_size", 1, whole=True)
        if self.pick not in ("ifd", "perplexity"):
            raise ConfigError(f"Cherry(pick={self.pick!r}): it has to be 'ifd' or 'perplexity'.")
        self._check_percentiles()
        self.score()
        check_source(self, "clusters", "Cluster")
        check_source(self, "vectors", "Embedding")

    def _check_percentiles(self) -> None:
        given = self.percentiles
        pair = tuple(given) if isinstance(given, list | tuple) else ()
        numbers = len(pair) == 2 and all(type(each) in (int, float) for each in pair)
        if not numbers or not 0 <= pair[0] < pair[1] <= 100:
            raise ConfigError(
                f"Cherry(percentiles={given!r}): it has to be two numbers from 0 to 100, the lower one first."
            )
        if self.pick == "ifd" and pair != _PERCENTILES:
            raise ConfigError(f"Cherry(percentiles={given!r}): these are of pick='perplexity'. Leave them out.")
        object.__setattr__(self, "percentiles", pair)

    def score(self) -> IFD:
        """The score that rows are chosen by, of the model as it is in a round."""
        return IFD(convention=self.convention, ratio=self.ratio)

    def later_scores(self) -> tuple[Score, ...]:
        return (self.score(),)

    def warmup_budget(self, pool_size: int) -> int:
        return self.warmup_size

    def warmup(self, round: Round) -> Selector:
        by = self.score() if self.pick == "ifd" else PromptLoss(convention=self.convention)
        return _OfEachCluster(self.clusters, "equal", self.vectors, by=by, percentiles=self.percentiles)

    def final(self, round: Round) -> Selector:
        return _Hardest(self.score())


@dataclass(frozen=True)
class _Hardest(Ranked):
    """The rows with the highest IFD below 1."""

    by: IFD

    below = _HARDEST_BELOW

    @property
    def ranks_by(self) -> IFD:
        return self.by


@dataclass(frozen=True)
class _OfEachCluster(ClusterSelector):
    """The rows of the warm-up."""

    by: IFD | PromptLoss = field(kw_only=True)
    percentiles: tuple[float, float] = field(kw_only=True)

    def way(self, round: Round) -> str:
        if isinstance(self.by, IFD):
            return f"those with the highest {self.by.value_column} below 1"
        return "in even steps through those whose prompt is neither the least nor the most likely"

    def choose(self, round: Round) -> np.ndarray:
        ids, _ = self.members(round)
        by_ifd, name = isinstance(self.by, IFD), self.by.value_column
        found, inside = round.values(self.by), np.flatnonzero(ids >= 0)
        rows = round.candidates(found[inside], inside, high=_HARDEST_BELOW if by_ifd else None, name=name)
        values = np.full(len(ids), np.nan)
        values[rows] = found[rows]
        budget = min(round.budget, len(rows))
        if by_ifd:
            return top_per_cluster(values, ids, budget, "equal")
        return _even_steps(values, ids, budget, self.percentiles)


def _even_steps(
    values: np.ndarray, ids: np.ndarray, budget: int, percentiles: tuple[float, float] = _PERCENTILES
) -> np.ndarray:
    """Rows of each cluster in even steps through those whose value is between two percentiles of the cluster.

    Where these are fewer than are wanted, the cluster's other rows follow.

    Args:
        values: float64 of shape (rows,), NaN for rows that are not to be taken.
        ids: cluster of each row, int64, below 0 for none.
        budget: rows to take, at most those that have a value and a cluster.
        percentiles: of a cluster's values, both included.
    """
    can = np.isfinite(values) & (ids >= 0)
    rows = np.flatnonzero(can)
    rows = rows[np.argsort(ids[rows], kind="stable")]
    parts = []
    for cluster, wanted in quotas(ids, budget, "equal", eligible=can).items():
        if not wanted:
            continue
        start, stop = np.searchsorted(ids[rows], [cluster, cluster + 1])
        own = rows[start:stop]
        low, high = np.percentile(values[own], percentiles)
        inside = (values[own] >= low) & (values[own] <= high)
        middle, others = own[inside], own[~inside]
        few = wanted > len(middle)
        parts.append(
            np.concatenate([middle, others[: wanted - len(middle)]])
            if few
            else middle[:: len(middle) // wanted][:wanted]
        )
    return interleaved(parts)
