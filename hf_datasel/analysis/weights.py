"""How the weights of clusters move while a model trains, as plain numbers that go straight to JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from hf_datasel.analysis.binning import significant
from hf_datasel.errors import ConfigError, DatasetMismatchError, SelectionError
from hf_datasel.selection import Selection
from hf_datasel.strategies.reweighting import effective_number

__all__ = ["ClusterWeights", "MovedCluster", "cluster_weights"]

_POINTS = 200  # of a curve


class MovedCluster(TypedDict):
    """A cluster, and what it had of the weight.

    Attributes:
        cluster: its number.
        weights: in each round, 0 to 1.
    """

    cluster: int
    weights: list[float]


class ClusterWeights(TypedDict):
    """The weights of clusters in the rounds of a run.

    Attributes:
        rounds: their numbers.
        clusters: how many clusters there are.
        effective: how many of equal weight would be as evenly spread, in each round.
        ranks: how many of the heaviest clusters `curves` are about: each number up to 200 clusters, and then 200 of
            them, 1 and all included.
        curves: for each round, what the so many heaviest clusters had together, 0 to 1.
        middle: for each round, the weights that a tenth of the clusters are below, and a tenth above.
        moved: the clusters whose weight differs most between the first round and the last one, most first.
    """

    rounds: list[int]
    clusters: int
    effective: list[float]
    ranks: list[int]
    curves: list[list[float]]
    middle: list[tuple[float, float]]
    moved: list[MovedCluster]


def cluster_weights(selections: Sequence[Selection], moved: int = 6) -> ClusterWeights:
    """Say how the weights of clusters moved over the rounds of iterative kMQ.

    Args:
        selections: one a round, in order, such as `trainer.selections`.
        moved: clusters that are followed by themselves, at most.

    Raises:
        SelectionError: fewer than two selections, one without weights, or of another method.
        DatasetMismatchError: the selections are of different datasets.
        ConfigError: `moved` is no whole number of at least 0.
    """
    if type(moved) is not int or moved < 0:
        raise ConfigError(f"moved={moved!r} has to be a whole number of clusters, 0 or more.")
    weights, ids = _weights(selections)
    falling = -np.sort(-weights, axis=1)
    ranks = np.unique(np.geomspace(1, len(ids), _POINTS).round().astype(np.int64))
    ranks = np.arange(1, len(ids) + 1) if len(ids) <= _POINTS else ranks
    together = np.cumsum(falling, axis=1) / falling.sum(axis=1, keepdims=True)
    most = np.argsort(-np.abs(weights[-1] - weights[0]), kind="stable")[:moved]
    low, high = np.quantile(weights, [0.1, 0.9], axis=1)
    return {
        "rounds": [int(each.provenance["round"]) for each in selections],
        "clusters": len(ids),
        "effective": [significant(effective_number(each)) for each in weights],
        "ranks": ranks.tolist(),
        "curves": [[significant(each) for each in row[ranks - 1].tolist()] for row in together],
        "middle": [(significant(each), significant(other)) for each, other in zip(low, high, strict=True)],
        "moved": [
            {"cluster": ids[at], "weights": [significant(each) for each in weights[:, at].tolist()]}
            for at in most.tolist()
        ],
    }


def _weights(selections: Sequence[Selection]) -> tuple[np.ndarray, list[int]]:
    """Weights of shape (rounds, clusters), and the numbers of the clusters."""
    if len(selections) < 2:
        raise SelectionError(f"How weights move needs at least two rounds, and got {len(selections)}.")
    if len({each.provenance["dataset"]["id"] for each in selections}) > 1:
        raise DatasetMismatchError("The selections were made from different datasets.")
    notes = [each.provenance.get("notes", {}) for each in selections]
    for selection, note in zip(selections, notes, strict=True):
        if not note.get("cluster_weights"):
            raise SelectionError(f"{selection!r} records no weights of clusters: IterativeKMQ does.")
    ids: list[int] = notes[0]["clusters"]
    if any(note["clusters"] != ids for note in notes):
        raise SelectionError("The selections have different clusters. Pass the rounds of one run.")
    return np.array([note["cluster_weights"] for note in notes], dtype=np.float64), ids
