"""DQ: the same number of random rows from each of several bins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_datasel.errors import Interrupted
from hf_datasel.rounds.cache import take_rows
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector, check_number, check_source, column_name
from hf_datasel.strategies.graph_cut import graph_cut_bins, sample_bins

if TYPE_CHECKING:
    from hf_datasel.scores import Embedding

__all__ = ["DQ"]


@dataclass(frozen=True)
class DQ(Selector):
    """Rows drawn equally from `bins` bins, which range from typical to unusual rows: dataset quantization.

    The bins are filled one after the other, one row at a time, each time with the row that is most similar to all
    remaining rows and least similar to those in the bin (graph cut, cosine similarity). Then the same number of rows
    is drawn uniformly at random from each bin. With fewer rows than bins, each row is a bin.

    Cost: O(rows x rows x dimensions) time in the worst case, O(rows x dimensions) memory; meant for some ten thousand
    rows.

    Reference: Zhou et al. 2023 (2308.10524); 10 bins are those of its code. If the number of rows is no multiple of
    the number of bins, the remaining rows are in the last bin; the code drops them. Xia et al. 2024 (2410.09335),
    section 5.3, did not run it because of the memory that the code needs.

    Args:
        vectors: Column of vectors, or `Embedding(...)`.
        bins: Number of bins, at least 1.
    """

    vectors: str | Embedding = "embedding"
    bins: int = 10

    nested: ClassVar[bool] = True
    citation = (
        "@inproceedings{zhou2023dq, title={Dataset Quantization}, author={Zhou, Daquan and Wang, Kai and Gu, Jianyang "
        "and Peng, Xiangyu and Lian, Dongze and Zhang, Yifan and You, Yang and Feng, Jiashi}, booktitle={ICCV}, "
        "year={2023}}"
    )

    def __post_init__(self) -> None:
        check_source(self, "vectors", "Embedding")
        check_number(self, "bins", 1, integer=True)

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows of this round, drawn from each bin."""
        vectors = context.vectors(self.vectors)
        name = column_name(self.vectors)
        rows = context.candidates(vectors, np.arange(len(vectors)), name=name)
        if not len(rows):
            return rows
        with context.progress_bar(len(rows), "row") as bar:
            try:
                bins = graph_cut_bins(
                    take_rows(vectors, rows), min(self.bins, len(rows)), lambda done: bar.update(done - bar.n)
                )
            except Interrupted:  # rows in bins are not selected yet
                raise Interrupted(rows[:0]) from None
        selected: np.ndarray = rows[sample_bins(bins, min(context.budget, len(rows)), context.rng)]
        return selected

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return a sentence that names the number of bins and the random seed."""
        return [f"Rows were drawn at random from each of {self.bins} bins, with seed {context.record.seed}."]
