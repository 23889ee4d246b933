"""Plots of selections, drawn with matplotlib (`pip install "hf-datasel[plot]"`) at the width of a dataset card."""

from hf_datasel.analysis.plots.clusters import draw_cluster_choice, draw_cluster_quality
from hf_datasel.analysis.plots.curves import draw_loss
from hf_datasel.analysis.plots.grids import draw_map, draw_overlaps
from hf_datasel.analysis.plots.rounds import draw_rounds, plot_rounds
from hf_datasel.analysis.plots.spreads import draw_lengths, draw_scores

__all__ = [
    "draw_cluster_choice",
    "draw_cluster_quality",
    "draw_lengths",
    "draw_loss",
    "draw_map",
    "draw_overlaps",
    "draw_rounds",
    "draw_scores",
    "plot_rounds",
]
