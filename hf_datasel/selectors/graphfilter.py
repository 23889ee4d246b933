"""GraphFilter: quality times the n-grams of the instruction that are not covered yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.ifd_selector import IFDSelector
from hf_datasel.rounds.positions import place_of, say_pick
from hf_datasel.strategies.ngram import ngram_greedy
from hf_datasel.strategies.ngram_explain import explain_pick

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
        ifd, candidates = self._candidates(round)
        texts, corpus = round.texts("prompt", candidates), round.texts("prompt")
        budget = min(round.budget, len(candidates))
        return round.pick(
            candidates,
            lambda progress: ngram_greedy(
                texts, ifd[candidates], budget, self.decay, "graphfilter", corpus, progress=progress
            ),
        )

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        ifd, candidates = self._candidates(round)
        at = int(place_of(np.array([row]), candidates)[0])
        if at < 0:
            return say_pick(None, len(candidates))
        texts, corpus = round.texts("prompt", candidates), round.texts("prompt")
        order = place_of(chosen, candidates)
        return say_pick(
            explain_pick(texts, ifd[candidates], order, at, self.decay, "graphfilter", corpus), len(candidates)
        )

    def _candidates(self, round: Round) -> tuple[np.ndarray, np.ndarray]:
        """IFD by row, and the rows to choose from."""
        rows = np.arange(len(round.rows))
        ifd = self.ifd(round, rows)
        return ifd, round.candidates(ifd, rows, name=self.quality_name)
