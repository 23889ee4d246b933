"""A small picture of the whole: the same share of every bin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_datasel.errors import Interrupted
from hf_datasel.rounds.cache import taken
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import Selector, check_number, check_source, column_of
from hf_datasel.strategies.graph_cut import graph_cut_bins, sample_bins

if TYPE_CHECKING:
    from hf_datasel.scores import Embedding

__all__ = ["DQ"]


@dataclass(frozen=True)
class DQ(Selector):
    """The same number of rows from each of `bins` bins, from rows that stand for many to rows that stand for few.

    Dataset quantization: the bins are filled one after the other, a row at a time, each time with the row that is most
    like all rows left and least like those in the bin (graph cut, cosine). From every bin rows are drawn uniformly.

    Where there are fewer rows than bins, each row is a bin.

    Cost: rows x rows x dimensions at worst, in O(rows x dimensions) memory: made for some ten thousand rows.
    Reference: Zhou et al. 2023 (2308.10524); 10 bins are its code's. Rows that do not divide by the bins are in the
    last bin here, and dropped by the code. Xia et al. 2024 (2410.09335), section 5.3, gave up on the memory that the
    code needs.
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

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        return [f"Rows were drawn at random from each of {self.bins} bins, with seed {round.seed}."]

    def choose(self, round: Round) -> np.ndarray:
        vectors = round.vectors(self.vectors)
        name = column_of(self.vectors)
        rows = round.candidates(vectors, np.arange(len(vectors)), name=name)
        if not len(rows):
            return rows
        with round.bar(len(rows), "row") as bar:
            try:
                bins = graph_cut_bins(
                    taken(vectors, rows), min(self.bins, len(rows)), lambda done: bar.update(done - bar.n)
                )
            except Interrupted:  # rows in bins are not chosen yet
                raise Interrupted(rows[:0]) from None
        chosen: np.ndarray = rows[sample_bins(bins, min(round.budget, len(rows)), round.rng)]
        return chosen
