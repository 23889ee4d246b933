"""Rows added in rounds, from the clusters whose responses the model in training falls behind most."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar, get_args

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, SelectionError, did_you_mean, reason_counts
from hf_datasel.rounds.cache import as_numpy
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.incremental_selector import GrowingSelector
from hf_datasel.rounds.selector import check_number, column_of
from hf_datasel.rounds.state import from_first, is_kept
from hf_datasel.rounds.views import groups_of, whole_of
from hf_datasel.scores import RewardGap
from hf_datasel.scoring.base import Score
from hf_datasel.selectors.kmq import KMQ
from hf_datasel.strategies.clusters import sample_per_cluster
from hf_datasel.strategies.reweighting import Update, cluster_means, effective_number, reweighted

__all__ = ["IterativeKMQ"]

logger = logging.getLogger(__name__)

_WEIGHTS = "cluster_weights"


@dataclass(frozen=True)
class IterativeKMQ(GrowingSelector, KMQ):
    """Rows of each cluster drawn by quality, some of them before each round of training, the more from a cluster the
    further the model's own answers to the prompts chosen from it fall behind the responses: iterative kMQ.

    The first round is kMQ with its share of the budget. Before each later one the model answers the prompts chosen so
    far, `gap` says how much better their responses are, and the mean of each cluster changes its weight. The new rows
    are drawn by these weights from what is left; what a used-up cluster cannot give comes from the others. Clusters,
    and a quality that is a score, stay those of the first round.

    Weights begin as the shares of kMQ. `update="exponential"`, the default, is ours: a weight is multiplied by exp(gap
    / `gap_temperature`). A cluster in which no row has a gap keeps its weight; the others divide the rest. Where
    no row at all has a gap, the round is refused; where no row of a group of `Within` has one, that is logged.

    Reference: Yu et al. 2024 (2409.11378), section 2.2 and Algorithm 1. The paper multiplies a weight by the gap (Eq.
    6), `update="paper"`, which is an error when a gap is below 0; begins with equal weights in its Algorithm 1,
    `shares="equal"`; draws in proportion to the quality, `weights="proportional"`; and trains on for one epoch a
    round, which is num_train_epochs = `rounds`. Its code takes the softmax of the gaps and forgets the weights before,
    `update="softmax"`; draws as many rows from each cluster at first, `shares="equal"`; and trains each round anew for
    3 epochs, `restart_each_round=True`. The paper finds a reward model to be the best scorer of the gap.
    """

    gap: RewardGap = field(kw_only=True)
    """What is asked of the rows chosen so far: `RewardGap(reward_model="name or path")`, or with another scorer. It is
    that of the model in training, and names none."""
    update: Update = "exponential"
    gap_temperature: float = 1.0
    """What gaps are divided by before they are exponentiated; higher changes the weights less. Not for `"paper"`."""
    rounds: int = field(default=3, kw_only=True)
    restart_each_round: bool = field(default=False, kw_only=True)

    title: ClassVar[str] = "Iterative kMQ"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_rounds()
        name = type(self).__name__
        if not isinstance(self.gap, RewardGap):
            raise ConfigError(f"{name}(gap={self.gap!r}): it has to be RewardGap(...), of the model in training.")
        if self.gap.model is not None:
            raise ConfigError(
                f"{name}(gap=RewardGap({self.gap.model!r}, ...)): the gap is that of the model in training. Name no "
                "model, but a reward_model or a judge."
            )
        if column_of(self.quality) == column_of(self.gap):
            raise ConfigError(
                f"{name}: quality and gap are both called {column_of(self.gap)!r}, and each is to be recorded. Set "
                "column_prefix in gap: RewardGap(..., column_prefix='current_')."
            )
        if self.update not in get_args(Update):
            options = list(get_args(Update))
            hint = did_you_mean(str(self.update), options)
            raise ConfigError(f"{name}(update={self.update!r}): it has to be one of {options}.{hint}")
        check_number(self, "gap_temperature", 0, open_low=True)
        if self.update == "paper" and self.gap_temperature != 1:
            raise ConfigError(
                f"{name}(gap_temperature={self.gap_temperature!r}): update='paper' has no temperature. Leave it out."
            )

    def later_scores(self) -> tuple[Score, ...]:
        return (self.gap,)

    def members(self, round: Round) -> tuple[np.ndarray, np.ndarray | None]:
        if isinstance(self.clusters, str):
            return super().members(round)
        cluster = self.clusters

        def found() -> np.ndarray:
            ids, _ = round.clusters(cluster, self.vectors)
            return np.where(ids < 0, np.nan, ids)

        ids = from_first(round, f"{cluster.column_prefix}cluster_id", pa.int32(), found, "in no cluster")
        round.leave_out("in no cluster", np.flatnonzero(np.isnan(ids)))
        return np.where(round.eligible & ~np.isnan(ids), np.nan_to_num(ids, nan=-1), -1).astype(np.int64), None

    def add(self, round: Round, rows: int) -> np.ndarray:
        ids, _ = self.members(round)
        quality = np.where(ids >= 0, self._quality(round), np.nan)
        self.budget(round, ids, quality, column_of(self.quality))  # counts what is left out
        quality[round.chosen] = np.nan
        clusters, weights = self._weights(round, ids)
        later = _WEIGHTS in round.state
        drawn = sample_per_cluster(
            quality,
            ids,
            min(rows, int(np.isfinite(quality).sum())),
            round.rng.spawn(1)[0],
            temperature=self.temperature,
            weights=self.weights,
            shares=dict(zip(clusters.tolist(), weights.tolist(), strict=True)) if later else self.shares,
        )
        round.state[_WEIGHTS] = weights  # at the end, so that a round which is interrupted can be played again
        return drawn

    def _quality(self, round: Round) -> np.ndarray:
        if isinstance(self.quality, str):
            return round.values(self.quality)
        return from_first(round, column_of(self.quality), pa.float32(), lambda: round.values(self.quality))

    def _weights(self, round: Round, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The clusters, ascending, and their weights in this round, which are recorded."""
        clusters, sizes = np.unique(ids[ids >= 0], return_counts=True)
        means = self._mean_gaps(round, np.searchsorted(clusters, ids), len(clusters))
        if _WEIGHTS in round.state:
            weights = reweighted(round.state[_WEIGHTS], means, self.update, self.gap_temperature)
        else:
            first = sizes if self.shares == "proportional" else np.ones(len(clusters))
            weights = first / max(first.sum(), 1)
        notes = {
            "clusters": clusters.tolist(),
            "cluster_weights": [_short(each) for each in weights.tolist()],
            "cluster_gap": [_short(each) if np.isfinite(each) else None for each in means.tolist()],
        }
        self.note(round, notes)
        if len(weights):
            round.logs["effective_clusters"] = effective_number(weights)
            round.logs["largest_cluster_weight"] = float(weights.max())
        return clusters, weights

    def _mean_gaps(self, round: Round, member: np.ndarray, clusters: int) -> np.ndarray:
        """The mean gap of each cluster (Eq. 5), NaN where no row chosen so far has one."""
        if not len(round.chosen):
            return np.full(clusters, np.nan)
        name = self.gap.value_column
        found = round.score(self.gap, round.chosen, optional=True)  # rows without one are chosen all the same
        gaps = found[name].astype(np.float64)
        known = np.isfinite(gaps)
        if 2 * known.sum() < len(gaps):
            _judge_missing(round, name, Counter(found[f"{name}_reason"][~known].tolist()))
        if known.any():
            round.logs["mean_gap"] = float(gaps[known].mean())
        return cluster_means(member[round.chosen], gaps, clusters)

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        said, notes = self.when(round, chosen, row), round.notes
        if not round.index:
            return [*said, *super().explain(round, chosen, row)]
        if self._clusters_moved(round):
            return [*said, "Its cluster is that of the vectors of the first round, whose model is not at hand."]
        ids, _ = self.members(round)
        said += super().explain(round, chosen, row)
        if not round.path and ids[row] in notes.get("clusters", ()):
            at = notes["clusters"].index(ids[row])
            weight, gap = notes["cluster_weights"][at], notes["cluster_gap"][at]
            known = "no row of it had a gap" if gap is None else f"the mean gap of its rows was {gap:.4g}"
            said.append(f"The cluster had {weight:.3%} of the weight in this round: {known}.")
        return said

    def _clusters_moved(self, round: Round) -> bool:
        """Whether the clusters cannot be found again, because they rest on a model that has been trained since."""
        if isinstance(self.clusters, str) or not self.clusters.needs_fit:
            return False
        kept = is_kept(round, f"{self.clusters.column_prefix}cluster_id")
        return not kept and not isinstance(self.vectors, str) and self.vectors.model is None


def _judge_missing(round: Round, name: str, missing: Counter[str]) -> None:
    """Say that most rows chosen so far have no gap, or none has.

    A group without one keeps its weights, and the last group that is asked knows whether there is one in any other.

    Args:
        round: or a part of it.
        name: of the column of gaps.
        missing: how many rows have no gap, by reason.

    Raises:
        SelectionError: no row of the whole round has one.
    """
    rows, groups = len(round.chosen), "".join(f", group {each!r}" for each in groups_of(round))
    if missing.total() < rows:
        logger.warning(
            "%s%s: %d of the %d rows chosen so far have no %s (%s). The weights of clusters follow the others.",
            *(round.asker, groups, missing.total(), rows, name, reason_counts(missing)),
        )
        return
    whole = whole_of(round)
    asked, gaps = whole.scored[name]
    if np.isin(whole.chosen, asked).all() and not np.isfinite(as_numpy(gaps)).any():
        _, reasons = whole.scored[f"{name}_reason"]
        raise SelectionError(
            f"{round.asker}: none of the {len(whole.chosen):,} rows chosen so far has a {name} "
            f"({reason_counts(Counter(reasons.to_pylist()))}), which the weights of clusters have to follow. Where "
            "prompts fill the model's window, lower max_new_tokens of RewardGap; else take another scorer, or KMQ, "
            "which chooses without a gap."
        )
    logger.warning(
        "%s%s: none of the %d rows chosen so far has a %s (%s). Its clusters keep their weights.",
        *(round.asker, groups, rows, name, reason_counts(missing)),
    )


def _short(value: float) -> float:
    """Six digits, which is enough for a record."""
    return float(f"{value:.6g}")
