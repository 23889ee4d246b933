"""Looking at selections: what they share, what was chosen and what was not; as numbers and as plots."""

from hf_datasel.analysis.clusters import cluster_choice, cluster_quality
from hf_datasel.analysis.overlap import jaccard_matrix
from hf_datasel.analysis.plots import (
    draw_cluster_choice,
    draw_cluster_quality,
    draw_lengths,
    draw_loss,
    draw_map,
    draw_overlaps,
    draw_rounds,
    draw_scores,
    plot_rounds,
)
from hf_datasel.analysis.summaries import distribution, distribution_by_round, embedding_map, overlaps

__all__ = [
    "cluster_choice",
    "cluster_quality",
    "distribution",
    "distribution_by_round",
    "draw_cluster_choice",
    "draw_cluster_quality",
    "draw_lengths",
    "draw_loss",
    "draw_map",
    "draw_overlaps",
    "draw_rounds",
    "draw_scores",
    "embedding_map",
    "jaccard_matrix",
    "overlaps",
    "plot_rounds",
]
