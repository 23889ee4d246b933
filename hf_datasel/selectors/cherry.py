"""Cherry: rows with the highest IFD below 1, scored after a warm-up on rows of every cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hf_datasel.errors import ConfigError, check_option
from hf_datasel.rounds.cluster_selector import ClusterSelector
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.ranked_selector import RankedSelector
from hf_datasel.rounds.selector import Selector, check_number, check_source, distinct_scores
from hf_datasel.rounds.warmup_selector import WarmupSelector
from hf_datasel.scores import IFD, Cluster, Embedding, PromptLoss
from hf_datasel.scores.prompt_loss import Convention
from hf_datasel.scoring.base import Score
from hf_datasel.selectors.within import interleaved
from hf_datasel.strategies.clusters import quotas, top_per_cluster

__all__ = ["Cherry"]

_HIGHEST_IFD = 1.0
"""IFD from which on rows are never selected."""

_PERCENTILES = (1, 99)


@dataclass(frozen=True)
class Cherry(WarmupSelector):
    """Rows with the highest IFD below 1, by the model after a short warm-up on rows of every cluster.

    The warm-up takes the same number of rows from each cluster; if a cluster is too small, more rows come from the
    others. Then the model scores the whole pool, and training starts again from the base model. Rows of the warm-up
    may be selected again.

    Cost: a warm-up and about five forward passes over all rows before training.

    Reference: Li et al. 2024 (2308.12032), whose code warms up for one epoch on 10 rows from each of 100 clusters of
    instructions, `pick="perplexity"`; and Xia et al. 2024 (2410.09335), section 3.1, who take these 10 rows by the IFD
    of the base model, `pick="ifd"`, from 1,000 clusters of a million rows. The latter do not say whether these are the
    highest or the lowest IFDs; here they are the highest below 1, as in the selection. The vectors are those of
    Cherry's code except for the wording of the prompt: the mean of the base model's last hidden states over the
    instruction. `convention="cherry"` scores with the prompt of the code.

    Args:
        warmup_size: Number of rows of the warm-up.
        pick: How rows of a cluster are picked for the warm-up. `"ifd"`: the highest IFD of the base model below 1.
            `"perplexity"`, as in Cherry's code: at equal intervals, in dataset order, among the rows whose prompt
            has a perplexity between two percentiles of the cluster.
        percentiles: The two percentiles of `pick="perplexity"`. The default is that of Cherry's code; its published
            commands use 25 and 75.
        convention: Prompt and details of the IFD, and of the prompt's perplexity; see `hf_datasel.scores.IFD`.
        ratio: `"perplexity"` divides the perplexities; `"loss"` divides the losses, as 2410.09335 (Eq. 2) and Cherry's
            script do.
        clusters: Column of cluster numbers, or `Cluster(k=...)`, which is fitted to `vectors` if it has no centroids.
        vectors: Column or `Embedding(...)` that `clusters` is fitted to.
        warmup_epochs: Number of epochs on the rows of the warm-up.
    """

    warmup_size: int = field(default=1000, kw_only=True)
    pick: Literal["ifd", "perplexity"] = field(default="ifd", kw_only=True)
    percentiles: tuple[float, float] = field(default=_PERCENTILES, kw_only=True)
    convention: Convention = field(default="sft", kw_only=True)
    ratio: Literal["perplexity", "loss"] = field(default="perplexity", kw_only=True)
    clusters: str | Cluster = field(default=Cluster(k=100), kw_only=True)
    vectors: str | Embedding = field(default=Embedding(part="prompt", normalize=False), kw_only=True)

    citation = IFD.citation

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "warmup_size", 1, integer=True)
        check_option(f"Cherry(pick={self.pick!r})", self.pick, ("ifd", "perplexity"))
        self._check_percentiles()
        self.score()
        check_source(self, "clusters", "Cluster")
        check_source(self, "vectors", "Embedding")

    def _check_percentiles(self) -> None:
        value = self.percentiles
        pair = tuple(value) if isinstance(value, list | tuple) else ()
        are_numbers = len(pair) == 2 and all(type(number) in (int, float) for number in pair)
        if not are_numbers or not 0 <= pair[0] < pair[1] <= 100:
            raise ConfigError(
                f"Cherry(percentiles={value!r}): it has to be two numbers from 0 to 100, the lower one first."
            )
        if self.pick == "ifd" and pair != _PERCENTILES:
            raise ConfigError(f"Cherry(percentiles={value!r}): these are of pick='perplexity'. Leave them out.")
        object.__setattr__(self, "percentiles", pair)

    def score(self) -> IFD:
        """Return the score that rows are selected by, with the model as it is in a round."""
        return IFD(convention=self.convention, ratio=self.ratio)

    def scores(self) -> tuple[Score, ...]:
        """Return the scores that any round computes, with the one of the warm-up."""
        return distinct_scores([*super().scores(), self._pick_by()])

    def later_scores(self) -> tuple[Score, ...]:
        """Return the scores that later rounds compute."""
        return (self.score(),)

    def warmup_budget(self, pool_size: int) -> int:
        """Return the number of rows of the warm-up."""
        return self.warmup_size

    def warmup(self, context: RoundContext) -> Selector:
        """Return the selector of the warm-up rows."""
        return _WarmupRows(self.clusters, "equal", self.vectors, by=self._pick_by(), percentiles=self.percentiles)

    def _pick_by(self) -> IFD | PromptLoss:
        return self.score() if self.pick == "ifd" else PromptLoss(convention=self.convention)

    def final(self, context: RoundContext) -> Selector:
        """Return the selector of the rows after the warm-up."""
        return _HighestIFD(self.score())


@dataclass(frozen=True)
class _HighestIFD(RankedSelector):
    """Rows with the highest IFD below 1."""

    by: IFD

    below = _HIGHEST_IFD

    @property
    def ranks_by(self) -> IFD:
        """Score that rows are ranked by."""
        return self.by


@dataclass(frozen=True)
class _WarmupRows(ClusterSelector):
    """Rows of the warm-up, the same number from each cluster."""

    by: IFD | PromptLoss = field(kw_only=True)
    percentiles: tuple[float, float] = field(kw_only=True)

    def describe_sampling(self, context: RoundContext) -> str:
        """Return how rows are selected from a cluster, for a sentence."""
        if isinstance(self.by, IFD):
            return f"those with the highest {self.by.value_column} below 1"
        return "at equal intervals among those whose prompt is neither the least nor the most likely"

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows of the warm-up, of all clusters in turn."""
        ids, _ = self.members(context)
        by_ifd, name = isinstance(self.by, IFD), self.by.value_column
        scores, members = context.values(self.by), np.flatnonzero(ids >= 0)
        high = _HIGHEST_IFD if by_ifd else None
        rows = context.candidates(scores[members], members, high=high, name=name)
        values = np.full(len(ids), np.nan)
        values[rows] = scores[rows]
        budget = min(context.budget, len(rows))
        if by_ifd:
            return top_per_cluster(values, ids, budget, "equal")
        return _even_steps(values, ids, budget, self.percentiles)


def _even_steps(
    values: np.ndarray, ids: np.ndarray, budget: int, percentiles: tuple[float, float] = _PERCENTILES
) -> np.ndarray:
    """Return rows of each cluster at equal intervals among those with a value between two percentiles of the cluster.

    Where these are too few, the cluster's other rows follow.

    Args:
        values: Float64 of shape (rows,), NaN for rows that are never selected.
        ids: Cluster of each row, int64, below 0 for none.
        budget: Number of rows to select, at most those that have a value and a cluster.
        percentiles: Percentiles of a cluster's values, both included.
    """
    is_candidate = np.isfinite(values) & (ids >= 0)
    rows = np.flatnonzero(is_candidate)
    rows = rows[np.argsort(ids[rows], kind="stable")]
    parts = []
    for cluster, quota in quotas(ids, budget, "equal", eligible=is_candidate).items():
        if not quota:
            continue
        start, stop = np.searchsorted(ids[rows], [cluster, cluster + 1])
        members = rows[start:stop]
        low, high = np.percentile(values[members], percentiles)
        in_range = (values[members] >= low) & (values[members] <= high)
        middle, others = members[in_range], members[~in_range]
        if quota > len(middle):
            parts.append(np.concatenate([middle, others[: quota - len(middle)]]))
        else:
            parts.append(middle[:: len(middle) // quota][:quota])
    return interleaved(parts)
