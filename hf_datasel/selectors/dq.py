"""A small picture of the whole: the same share of every bin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_datasel.selectors.base import Selector, check_number, check_source
from hf_datasel.selectors.round import Round
from hf_datasel.strategies.graph_cut import graph_cut_bins, sample_bins

if TYPE_CHECKING:
    from hf_datasel.scores import Embedding

__all__ = ["DQ"]


@dataclass(frozen=True)
class DQ(Selector):
    """The same number of rows from each of `bins` bins, from rows that stand for many to rows that stand for few.

    Dataset quantization: the bins are filled one after the other, a row at a time, each time with the row that is most
    like all rows left and least like those in the bin (graph cut, cosine). From every bin rows are drawn uniformly.

    Cost: rows x rows x dimensions, in O(rows x dimensions) memory: made for some ten thousand rows.
    Reference: Zhou et al. 2023 (2308.10524), section 3.2, with its 10 bins; Xia et al. 2024 (2410.09335) gave up on
    the memory that the published code needs.
    """

    vectors: str | Embedding = "embedding"
    """Column of vectors, or `Embedding(...)`."""
    bins: int = 10

    nested: ClassVar[bool] = True
    citation = (
        "@inproceedings{zhou2023dq, title={Dataset Quantization}, author={Zhou, Daquan and Wang, Kai and Gu, Jianyang "
        "and Peng, Xiangyu and Lian, Dongze and Zhang, Yifan and You, Yang and Feng, Jiashi}, booktitle={ICCV}, "
        "year={2023}}"
    )

    def __post_init__(self) -> None:
        check_source(self, "vectors", "Embedding")
        check_number(self, "bins", 1, whole=True)

    def choose(self, round: Round) -> np.ndarray:
        vectors = round.vectors(self.vectors)
        name = self.vectors if isinstance(self.vectors, str) else self.vectors.value_column
        rows = round.candidates(vectors, np.arange(len(vectors)), name=name)
        if not len(rows):
            return rows
        with round.bar(len(rows), "row") as bar:
            bins = graph_cut_bins(vectors[rows], min(self.bins, len(rows)), lambda done: bar.update(done - bar.n))
        chosen: np.ndarray = rows[sample_bins(bins, min(round.budget, len(rows)), round.rng)]
        return chosen
