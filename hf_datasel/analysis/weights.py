"""Weights of clusters over the rounds of a run, as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from hf_datasel.analysis.binning import round_significant
from hf_datasel.errors import ConfigError, DatasetMismatchError, SelectionError
from hf_datasel.selection import Selection
from hf_datasel.strategies.reweighting import effective_number

__all__ = ["ClusterWeights", "MovedCluster", "cluster_weights"]

_CURVE_POINTS = 200


class MovedCluster(TypedDict):
    """Weights of a cluster over the rounds.

    Attributes:
        cluster: Number of the cluster.
        weights: Weight in each round, 0 to 1.
    """

    cluster: int
    weights: list[float]


class ClusterWeights(TypedDict):
    """Weights of the clusters in each round of a run.

    Attributes:
        rounds: Round numbers.
        clusters: Number of clusters.
        effective: Effective number of clusters in each round: the number of equal weights with the same concentration.
        ranks: Numbers of heaviest clusters that `curves` refers to: 1 to 200, or 200 numbers from 1 to all clusters.
        curves: For each round, the cumulative weight of the heaviest clusters at each of `ranks`, 0 to 1.
        deciles: For each round, the 10th and the 90th percentile of the weights.
        moved: Clusters with the largest difference in weight between the first and the last round, largest first.
    """

    rounds: list[int]
    clusters: int
    effective: list[float]
    ranks: list[int]
    curves: list[list[float]]
    deciles: list[tuple[float, float]]
    moved: list[MovedCluster]


def cluster_weights(selections: Sequence[Selection], moved: int = 6) -> ClusterWeights:
    """Compute how the weights of clusters change over the rounds of iterative kMQ.

    Args:
        selections: Selection of each round, in order, such as `trainer.selections`.
        moved: Maximum number of clusters whose weights are listed.

    Returns:
        The weights, rounded to six significant digits.

    Raises:
        SelectionError: If there are fewer than two selections, or a selection has no weights or other clusters.
        DatasetMismatchError: If the selections were made from different datasets.
        ConfigError: If `moved` is not an int of at least 0.
    """
    if type(moved) is not int or moved < 0:
        raise ConfigError(f"moved={moved!r} has to be a whole number of clusters, 0 or more.")
    weights, ids = _weights(selections)
    descending = -np.sort(-weights, axis=1)
    ranks = np.unique(np.geomspace(1, len(ids), _CURVE_POINTS).round().astype(np.int64))
    ranks = np.arange(1, len(ids) + 1) if len(ids) <= _CURVE_POINTS else ranks
    cumulative = np.cumsum(descending, axis=1) / descending.sum(axis=1, keepdims=True)
    most_moved = np.argsort(-np.abs(weights[-1] - weights[0]), kind="stable")[:moved]
    deciles = np.quantile(weights, [0.1, 0.9], axis=1).T
    return {
        "rounds": [int(selection.provenance["round"]) for selection in selections],
        "clusters": len(ids),
        "effective": [round_significant(effective_number(round_weights)) for round_weights in weights],
        "ranks": ranks.tolist(),
        "curves": [[round_significant(weight) for weight in curve[ranks - 1].tolist()] for curve in cumulative],
        "deciles": [(round_significant(low), round_significant(high)) for low, high in deciles],
        "moved": [
            {"cluster": ids[column], "weights": [round_significant(weight) for weight in weights[:, column].tolist()]}
            for column in most_moved.tolist()
        ],
    }


def _weights(selections: Sequence[Selection]) -> tuple[np.ndarray, list[int]]:
    """Return the weights, float64 of shape (rounds, clusters), and the numbers of the clusters."""
    if len(selections) < 2:
        raise SelectionError(f"cluster_weights needs at least two rounds, and got {len(selections)}.")
    if len({selection.provenance["dataset"]["id"] for selection in selections}) > 1:
        raise DatasetMismatchError("The selections were made from different datasets.")
    notes = [selection.provenance.get("notes", {}) for selection in selections]
    for selection, note in zip(selections, notes, strict=True):
        if not note.get("cluster_weights"):
            raise SelectionError(f"{selection!r} records no weights of clusters: only IterativeKMQ does.")
    ids: list[int] = notes[0]["clusters"]
    if any(note["clusters"] != ids for note in notes):
        raise SelectionError("The selections have different clusters. Pass the rounds of one run.")
    return np.array([note["cluster_weights"] for note in notes], dtype=np.float64), ids
