"""Iterative kMQ: rows added in rounds, more from clusters in which the model answers worse than the dataset."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar, get_args

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, SelectionError, check_option, reason_counts
from hf_datasel.rounds.cache import as_numpy
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.incremental_selector import IncrementalSelector
from hf_datasel.rounds.selector import check_number, column_name
from hf_datasel.rounds.state import first_round_values, has_first_round_values
from hf_datasel.rounds.views import full_round, group_names
from hf_datasel.scores import RewardGap
from hf_datasel.scoring.base import Score
from hf_datasel.selectors.kmq import KMQ
from hf_datasel.strategies.clusters import sample_per_cluster
from hf_datasel.strategies.reweighting import Update, cluster_means, effective_number, update_weights

__all__ = ["IterativeKMQ"]

logger = logging.getLogger(__name__)

_WEIGHTS = "cluster_weights"


@dataclass(frozen=True)
class IterativeKMQ(IncrementalSelector, KMQ):
    """Rows of each cluster drawn by quality in rounds, more from clusters where the model's answers are worse.

    The first round is `KMQ` with its share of the budget. Before each later round the model answers the prompts
    selected so far, `gap` measures how much better the responses of the dataset are, and the mean gap of each cluster
    changes the weight of the cluster. The new rows are drawn by these weights from the remaining rows; if a cluster is
    used up, more rows are drawn from the others. Clusters, and a quality that is a score, stay those of the first
    round.

    Weights start as the shares of `KMQ`. The default update, `"exponential"`, is specific to this library: a weight is
    multiplied by exp(mean gap / `gap_temperature`). A cluster in which no row has a gap keeps its weight, and the
    others divide the remaining weight. If no row has a gap at all, the round raises an error; inside a group of
    `Within` it logs a warning.

    Cost: embeddings and clusters, the quality of all rows, and each round generated responses to the rows
    selected so far, and their rating.

    Reference: Yu et al. 2024 (2409.11378), section 2.2 and Algorithm 1. The paper finds a reward model to be the best
    scorer of the gap. Its settings and those of its code:

    - Paper: multiplies a weight by the gap (Eq. 6), `update="paper"`, which is an error if a gap is below 0; starts
      with equal weights, `shares="equal"`; draws in proportion to the quality, `weights="proportional"`; and trains
      for one epoch in each round, num_train_epochs = `rounds`.
    - Code: takes the softmax of the gaps and ignores the earlier weights, `update="softmax"`; starts with
      `shares="equal"`; and trains each round from the base model for 3 epochs, `restart_each_round=True`.

    Args:
        clusters: Column of cluster numbers, or `Cluster(k=...)`, which is fitted to `vectors` if it has no centroids.
        shares: Shares of the budget: `"proportional"` to the size of a cluster, or `"equal"`.
        vectors: Column or `Embedding(...)` that a `Cluster` without centroids is fitted to.
        quality: Name of a numeric column, or a score.
        weights: `"softmax"` of the quality, or `"proportional"` to it.
        temperature: Divisor of the quality before the softmax, above 0. A lower temperature favours the
            highest qualities more.
        gap: Score that measures how much worse the model's answers are: `RewardGap(reward_model="name or path")`, or
            with another scorer. It is that of the model in training, so it must name neither a model nor an endpoint.
        update: How the mean gaps change the weights: `"exponential"`, `"softmax"` or `"paper"`; see above.
        gap_temperature: Divisor of the gaps before the exponential, above 0. A higher temperature changes the
            weights less. Not for `update="paper"`.
        rounds: Number of rounds, each with its share of the budget.
        restart_each_round: Whether each round trains the base model for all of `num_train_epochs`; otherwise training
            continues, and the rounds share the epochs.
    """

    gap: RewardGap = field(kw_only=True)
    update: Update = "exponential"
    gap_temperature: float = 1.0
    rounds: int = field(default=3, kw_only=True)
    restart_each_round: bool = field(default=False, kw_only=True)

    title: ClassVar[str] = "Iterative kMQ"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_rounds()
        name = type(self).__name__
        if not isinstance(self.gap, RewardGap):
            raise ConfigError(f"{name}(gap={self.gap!r}): it has to be RewardGap(...), of the model in training.")
        if self.gap.base_url is not None:
            raise ConfigError(
                f"{name}(gap=RewardGap(..., base_url=...)): the gap is that of the model in training, and an endpoint "
                "serves a fixed model. Omit base_url and model."
            )
        if self.gap.model is not None:
            raise ConfigError(
                f"{name}(gap=RewardGap({self.gap.model!r}, ...)): the gap is that of the model in training. Name no "
                "model, but a reward_model or a judge."
            )
        if column_name(self.quality) == column_name(self.gap):
            raise ConfigError(
                f"{name}: quality and gap are both called {column_name(self.gap)!r}, and both are recorded. Set "
                "column_prefix in gap: RewardGap(..., column_prefix='current_')."
            )
        check_option(f"{name}(update={self.update!r})", self.update, get_args(Update))
        check_number(self, "gap_temperature", 0, exclude_low=True)
        if self.update == "paper" and self.gap_temperature != 1:
            raise ConfigError(
                f"{name}(gap_temperature={self.gap_temperature!r}): update='paper' has no temperature. Leave it out."
            )

    def later_scores(self) -> tuple[Score, ...]:
        """Return the scores that later rounds compute."""
        return (self.gap,)

    def members(self, context: RoundContext) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the cluster of each row in the first round, int64, -1 for none, and the distances or None."""
        if isinstance(self.clusters, str):
            return super().members(context)
        cluster = self.clusters

        def fit() -> np.ndarray:
            ids, _ = context.clusters(cluster, self.vectors)
            return np.where(ids < 0, np.nan, ids)

        ids = first_round_values(context, f"{cluster.column_prefix}cluster_id", pa.int32(), fit, "in no cluster")
        context.exclude("in no cluster", np.flatnonzero(np.isnan(ids)))
        return np.where(context.eligible & ~np.isnan(ids), np.nan_to_num(ids, nan=-1), -1).astype(np.int64), None

    def add(self, context: RoundContext, rows: int) -> np.ndarray:
        """Return new rows, drawn from the clusters by their current weights."""
        ids, _ = self.members(context)
        quality = np.where(ids >= 0, self._quality(context), np.nan)
        self.cluster_budget(context, ids, quality, column_name(self.quality))  # counts what is excluded
        quality[context.selected] = np.nan
        clusters, weights = self._weights(context, ids)
        has_weights = _WEIGHTS in context.state
        drawn = sample_per_cluster(
            quality,
            ids,
            min(rows, int(np.isfinite(quality).sum())),
            context.rng.spawn(1)[0],
            temperature=self.temperature,
            weights=self.weights,
            shares=dict(zip(clusters.tolist(), weights.tolist(), strict=True)) if has_weights else self.shares,
        )
        context.state[_WEIGHTS] = weights  # at the end, so that an interrupted round can run again
        return drawn

    def _quality(self, context: RoundContext) -> np.ndarray:
        if isinstance(self.quality, str):
            return context.values(self.quality)
        name = column_name(self.quality)
        return first_round_values(context, name, pa.float32(), lambda: context.values(self.quality))

    def _weights(self, context: RoundContext, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the clusters, ascending, and their weights in this round, and record both."""
        clusters, sizes = np.unique(ids[ids >= 0], return_counts=True)
        means = self._mean_gaps(context, np.searchsorted(clusters, ids), len(clusters))
        if _WEIGHTS in context.state:
            weights = update_weights(context.state[_WEIGHTS], means, self.update, self.gap_temperature)
        else:
            initial = sizes if self.shares == "proportional" else np.ones(len(clusters))
            weights = initial / max(initial.sum(), 1)
        notes = {
            "clusters": clusters.tolist(),
            "cluster_weights": [_rounded(weight) for weight in weights.tolist()],
            "cluster_gap": [_rounded(mean) if np.isfinite(mean) else None for mean in means.tolist()],
        }
        self.add_notes(context, notes)
        if len(weights):
            context.record.logs["effective_clusters"] = effective_number(weights)
            context.record.logs["largest_cluster_weight"] = float(weights.max())
        return clusters, weights

    def _mean_gaps(self, context: RoundContext, member: np.ndarray, clusters: int) -> np.ndarray:
        """Return the mean gap of each cluster (Eq. 5), NaN where no row selected so far has a gap."""
        if not len(context.selected):
            return np.full(clusters, np.nan)
        name = self.gap.value_column
        columns = context.score(self.gap, context.selected, optional=True)  # the rows stay selected without a gap
        gaps = columns[name].astype(np.float64)
        has_gap = np.isfinite(gaps)
        if 2 * has_gap.sum() < len(gaps):
            _report_missing_gaps(context, name, Counter(columns[f"{name}_reason"][~has_gap].tolist()))
        if has_gap.any():
            context.record.logs["mean_gap"] = float(gaps[has_gap].mean())
        return cluster_means(member[context.selected], gaps, clusters)

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return sentences on the round in which the row was selected, and on its cluster."""
        sentences, notes = self.describe_round(context, selected, row), context.record.notes
        if not context.index:
            return [*sentences, *super().explain(context, selected, row)]
        if self._needs_first_model(context):
            return [*sentences, "Its cluster is that of the vectors of the first round, whose model is not available."]
        ids, _ = self.members(context)
        sentences += super().explain(context, selected, row)
        if not group_names(context) and ids[row] in notes.get("clusters", ()):
            position = notes["clusters"].index(ids[row])
            weight, gap = notes["cluster_weights"][position], notes["cluster_gap"][position]
            why = "none of its rows had a gap" if gap is None else f"the mean gap of its rows was {gap:.4g}"
            sentences.append(f"The cluster had {weight:.3%} of the weight in this round: {why}.")
        return sentences

    def _needs_first_model(self, context: RoundContext) -> bool:
        """Return whether the clusters depend on the model of the first round, which has been trained since."""
        if isinstance(self.clusters, str) or not self.clusters.needs_fit:
            return False
        is_stored = has_first_round_values(context, f"{self.clusters.column_prefix}cluster_id")
        return not is_stored and not isinstance(self.vectors, str) and self.vectors.model is None


def _report_missing_gaps(context: RoundContext, name: str, missing: Counter[str]) -> None:
    """Log that most rows selected so far have no gap, or raise if no row of the round has one.

    A group without a gap keeps its weights. The last group that runs can tell whether any other group has one.

    Args:
        context: Context of the round, or of a group.
        name: Name of the column of gaps.
        missing: Number of rows without a gap, by reason.

    Raises:
        SelectionError: No row of the whole round has a gap.
    """
    rows, groups = len(context.selected), "".join(f", group {group!r}" for group in group_names(context))
    if missing.total() < rows:
        logger.warning(
            "%s%s: %d of the %d rows selected so far have no %s (%s). The weights of clusters follow the others.",
            *(context.record.caller, groups, missing.total(), rows, name, reason_counts(missing)),
        )
        return
    full = full_round(context)
    scored_rows, gaps = full.record.scored[name]
    if np.isin(full.selected, scored_rows).all() and not np.isfinite(as_numpy(gaps)).any():
        _, reasons = full.record.scored[f"{name}_reason"]
        raise SelectionError(
            f"{context.record.caller}: none of the {len(full.selected):,} rows selected so far has a {name} "
            f"({reason_counts(Counter(reasons.to_pylist()))}), which the weights of the clusters depend on.",
            "If the prompts fill the model's window, lower max_new_tokens of RewardGap; otherwise use another scorer, "
            "or KMQ, which selects without a gap.",
        )
    logger.warning(
        "%s%s: none of the %d rows selected so far has a %s (%s). Its clusters keep their weights.",
        *(context.record.caller, groups, rows, name, reason_counts(missing)),
    )


def _rounded(value: float) -> float:
    """Return the value with six significant digits, for the record."""
    return float(f"{value:.6g}")
