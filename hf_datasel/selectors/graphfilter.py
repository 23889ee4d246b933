"""GraphFilter: rows with a high IFD and instructions with new n-grams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.formats import Part
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.describe import describe_pick
from hf_datasel.rounds.ifd_selector import IFDSelector
from hf_datasel.rounds.positions import positions_of
from hf_datasel.rounds.selector import check_quality
from hf_datasel.strategies.ngram import ngram_greedy
from hf_datasel.strategies.ngram_explain import explain_pick

__all__ = ["GraphFilter"]


@dataclass(frozen=True)
class GraphFilter(IFDSelector):
    """Rows with a high IFD and instructions whose n-grams no selected row has yet, selected one at a time.

    Each step takes the row with the highest product of its IFD and the summed TF-IDF of its instruction's n-grams (1-
    to 3-grams), then multiplies the weight of these n-grams by `decay`. TF-IDF is the count in the instruction times
    ln(N / document frequency) over the whole pool.

    Cost: two forward passes over all rows.

    Reference: Wu et al. 2024 (2410.12458), "The Best of Both Worlds", as IterIT (2412.17365, section 3.3) runs it.

    Args:
        quality: Column to use instead of computing the IFD; it is used as it is.
        model: Hub id or path of the model whose IFD is computed. None is the model in training, or the `model` of
            `select`.
        revision: Commit, branch or tag of a Hub `model`.
        convention: Prompt and details of the IFD; see `hf_datasel.scores.IFD`.
        decay: Factor from 0 to 1 for the weight of an n-gram each time a row with it is selected; 0, as in the paper,
            counts each n-gram once.
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

    def reads_text(self) -> tuple[Part, ...]:
        """Return the part of the rows whose n-grams are counted."""
        return ("prompt",)

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows in the order in which the greedy algorithm selects them."""
        ifd, candidates = self._candidates(context)
        texts, corpus = context.texts("prompt", candidates), context.texts("prompt")
        budget = min(context.budget, len(candidates))
        return context.pick(
            candidates,
            lambda progress: ngram_greedy(
                texts, ifd[candidates], budget, self.decay, "graphfilter", corpus, progress=progress
            ),
        )

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return sentences on the row's score and on its heaviest n-grams."""
        ifd, candidates = self._candidates(context)
        position = int(positions_of(np.array([row]), candidates)[0])
        if position < 0:
            return describe_pick(None, len(candidates))
        texts, corpus = context.texts("prompt", candidates), context.texts("prompt")
        order = positions_of(selected, candidates)
        explanation = explain_pick(texts, ifd[candidates], order, position, self.decay, "graphfilter", corpus)
        return describe_pick(explanation, len(candidates))

    def _candidates(self, context: RoundContext) -> tuple[np.ndarray, np.ndarray]:
        """Return the IFD by row, and the rows to select from."""
        rows = np.arange(len(context.pool))
        ifd = self.ifd(context, rows)
        candidates = context.candidates(ifd, rows, name=self.quality_name)
        check_quality(self, self.quality_name, ifd[candidates])
        return ifd, candidates
