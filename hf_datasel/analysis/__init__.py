"""Analysis of selections as numbers and plots: overlap, distributions, drift, clusters, sweeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.analysis.clusters import (
        cluster_fits as cluster_fits,
        cluster_fits_by_model as cluster_fits_by_model,
        cluster_quality as cluster_quality,
    )
    from hf_datasel.analysis.comparison import Comparison as Comparison, compare as compare
    from hf_datasel.analysis.drift import (
        drift_between as drift_between,
        drift_by_round as drift_by_round,
        top_share_replaced as top_share_replaced,
    )
    from hf_datasel.analysis.maps import tsne_map as tsne_map
    from hf_datasel.analysis.measures import standard_measures as standard_measures
    from hf_datasel.analysis.overlap import jaccard_matrix as jaccard_matrix
    from hf_datasel.analysis.plots.clusters import (
        draw_cluster_fits as draw_cluster_fits,
        draw_cluster_fits_by_model as draw_cluster_fits_by_model,
        draw_cluster_quality as draw_cluster_quality,
    )
    from hf_datasel.analysis.plots.comparison import (
        draw_compared as draw_compared,
        draw_coverage as draw_coverage,
        draw_jaccard as draw_jaccard,
    )
    from hf_datasel.analysis.plots.costs import plot_cost as plot_cost
    from hf_datasel.analysis.plots.curves import draw_loss as draw_loss
    from hf_datasel.analysis.plots.drift import draw_drift as draw_drift
    from hf_datasel.analysis.plots.forest import plot_forest as plot_forest
    from hf_datasel.analysis.plots.grids import draw_map as draw_map, draw_overlaps as draw_overlaps
    from hf_datasel.analysis.plots.maps import draw_tsne as draw_tsne
    from hf_datasel.analysis.plots.rounds import draw_rounds as draw_rounds, plot_rounds as plot_rounds
    from hf_datasel.analysis.plots.runs import PlottedMethod as PlottedMethod
    from hf_datasel.analysis.plots.spreads import draw_lengths as draw_lengths, draw_scores as draw_scores
    from hf_datasel.analysis.plots.sweeps import draw_ablation as draw_ablation, draw_sweep as draw_sweep
    from hf_datasel.analysis.plots.weights import draw_cluster_weights as draw_cluster_weights
    from hf_datasel.analysis.summaries import (
        distribution as distribution,
        distribution_by_round as distribution_by_round,
        embedding_map as embedding_map,
        overlaps as overlaps,
    )
    from hf_datasel.analysis.sweeps import ablation as ablation, sweep as sweep
    from hf_datasel.analysis.unique_names import selection_names as selection_names
    from hf_datasel.analysis.weights import cluster_weights as cluster_weights

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
