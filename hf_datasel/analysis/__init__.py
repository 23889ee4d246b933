"""Looking at selections: how much they share, and which scores were chosen."""

from hf_datasel.analysis.overlap import jaccard_matrix
from hf_datasel.analysis.plots import plot_rounds

__all__ = ["jaccard_matrix", "plot_rounds"]
