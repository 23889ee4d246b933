"""Looking at selections: what they share, what was chosen and what was not; as numbers and as plots."""

from hf_datasel.analysis.clusters import cluster_choice, cluster_choices, cluster_quality
from hf_datasel.analysis.comparison import Comparison, compare
from hf_datasel.analysis.drift import drift_between, drift_by_round, top_share_replaced
from hf_datasel.analysis.maps import tsne_map
from hf_datasel.analysis.measures import standard_measures
from hf_datasel.analysis.naming import names_of
from hf_datasel.analysis.overlap import jaccard_matrix
from hf_datasel.analysis.plots import (
    draw_ablation,
    draw_cluster_choice,
    draw_cluster_choices,
    draw_cluster_quality,
    draw_cluster_weights,
    draw_compared,
    draw_coverage,
    draw_drift,
    draw_jaccard,
    draw_lengths,
    draw_loss,
    draw_map,
    draw_overlaps,
    draw_rounds,
    draw_scores,
    draw_sweep,
    draw_tsne,
    plot_rounds,
)
from hf_datasel.analysis.summaries import distribution, distribution_by_round, embedding_map, overlaps
from hf_datasel.analysis.sweeps import ablation, sweep
from hf_datasel.analysis.weights import cluster_weights

__all__ = [
    "Comparison",
    "ablation",
    "cluster_choice",
    "cluster_choices",
    "cluster_quality",
    "cluster_weights",
    "compare",
    "distribution",
    "distribution_by_round",
    "draw_ablation",
    "draw_cluster_choice",
    "draw_cluster_choices",
    "draw_cluster_quality",
    "draw_cluster_weights",
    "draw_compared",
    "draw_coverage",
    "draw_drift",
    "draw_jaccard",
    "draw_lengths",
    "draw_loss",
    "draw_map",
    "draw_overlaps",
    "draw_rounds",
    "draw_scores",
    "draw_sweep",
    "draw_tsne",
    "drift_between",
    "drift_by_round",
    "embedding_map",
    "jaccard_matrix",
    "names_of",
    "overlaps",
    "plot_rounds",
    "standard_measures",
    "sweep",
    "top_share_replaced",
    "tsne_map",
]
