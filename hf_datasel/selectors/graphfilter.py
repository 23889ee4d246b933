"""GraphFilter: quality times the n-grams of the instruction that are not covered yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.selectors.round import Round
from hf_datasel.selectors.superfiltering import IFDSelector
from hf_datasel.strategies.ngram import ngram_greedy

__all__ = ["GraphFilter"]


@dataclass(frozen=True)
class GraphFilter(IFDSelector):
    """Rows chosen one at a time by IFD times the TF-IDF of the instruction's n-grams that no chosen row has.

    Raw counts times ln(N / document frequency) over the whole pool, 1- to 3-grams, a covered n-gram counts no more.
    Reference: Wu et al. 2024 (2410.12458), "The Best of Both Worlds", as IterIT runs it.
    """

    decay: float = 0.0

    nested: ClassVar[bool] = True
    citation = (
        "@article{wu2024graphfilter, title={The Best of Both Worlds: Bridging Quality and Diversity in Data Selection "
        "with Bipartite Graph}, author={Wu, Minghao and Vu, Thuy-Trang and Qu, Lizhen and Haffari, Gholamreza}, "
        "journal={arXiv preprint arXiv:2410.12458}, year={2024}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.decay, int | float) or not 0 <= self.decay <= 1:
            raise ConfigError(f"GraphFilter(decay={self.decay!r}): it has to be a number from 0 to 1.")

    def choose(self, round: Round) -> np.ndarray:
        rows = np.arange(len(round.rows))
        ifd = self.ifd(round, rows)
        candidates = round.candidates(ifd, rows, name=self.quality_name)
        order = ngram_greedy(
            round.texts("prompt", candidates),
            ifd[candidates],
            min(round.budget, len(candidates)),
            decay=self.decay,
            weighting="graphfilter",
            corpus=round.texts("prompt"),
        )
        chosen: np.ndarray = candidates[order]
        return chosen
