"""Plots of selections, drawn with matplotlib (`pip install "hf-datasel[plot]"`) at the width of a dataset card."""

from hf_datasel.analysis.plots.clusters import draw_cluster_choice, draw_cluster_choices, draw_cluster_quality
from hf_datasel.analysis.plots.comparison import draw_compared, draw_coverage, draw_jaccard
from hf_datasel.analysis.plots.curves import draw_loss
from hf_datasel.analysis.plots.drift import draw_drift
from hf_datasel.analysis.plots.grids import draw_map, draw_overlaps
from hf_datasel.analysis.plots.maps import draw_tsne
from hf_datasel.analysis.plots.rounds import draw_rounds, plot_rounds
from hf_datasel.analysis.plots.spreads import draw_lengths, draw_scores
from hf_datasel.analysis.plots.sweeps import draw_ablation, draw_sweep
from hf_datasel.analysis.plots.weights import draw_cluster_weights

__all__ = [
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
    "plot_rounds",
]
