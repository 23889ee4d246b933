"""QDIT: rows with a high quality that represent all rows well."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.cache import take_rows
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector, check_number, check_source, column_name
from hf_datasel.strategies.facility import facility_location, nearest_by_cosine

if TYPE_CHECKING:
    from hf_datasel.scores import Embedding
    from hf_datasel.scoring.base import Score

__all__ = ["QDIT"]


@dataclass(frozen=True)
class QDIT(Selector):
    """Rows selected one at a time by how much they improve the representation of all rows, and by their quality.

    Each step takes the row that adds most to `(1 - alpha)` x the sum over all rows of the cosine similarity with the
    nearest selected row (facility location) + `alpha` x the sum of the quality of the selected rows. The first sum
    grows with the number of rows, the second with the budget, so the same `alpha` gives another mixture for every
    dataset. `normalize=True` brings both to one scale. The scale depends on the budget, so a smaller selection is then
    not necessarily the beginning of a larger one.

    Cost: a few times rows x rows x dimensions. Above some hundred thousand rows set `neighbors`, which is approximate;
    see `hf_datasel.strategies.facility.facility_location`.

    Reference: Bukharin et al. 2024 (2311.14736), Eq. 1, section 3.2 and Algorithm 1; a baseline of Yu et al. 2024
    (2409.11378). The quality in the paper is a reward, with an `alpha` from 0 to 1. The default of 0.5, `normalize`
    and `neighbors` are specific to this library.

    Args:
        quality: Name of a numeric column, or a score such as `Reward("name or path")`.
        vectors: Column of vectors, or `Embedding(...)`.
        alpha: Weight of the quality, from 0 to 1.
        normalize: Whether both sums are brought to one scale.
        neighbors: Number of most similar rows that can represent a row; None for all rows.
    """

    quality: str | Score = field(kw_only=True)
    vectors: str | Embedding = "embedding"
    alpha: float = 0.5
    normalize: bool = False
    neighbors: int | None = None

    nested: ClassVar[bool] = True
    citation = (
        "@inproceedings{bukharin2024qdit, title={Data Diversity Matters for Robust Instruction Tuning}, "
        "author={Bukharin, Alexander and Li, Shiyang and Wang, Zhengyang and Yang, Jingfeng and Yin, Bing and "
        "Li, Xian and Zhang, Chao and Zhao, Tuo and Jiang, Haoming}, booktitle={Findings of EMNLP}, year={2024}}"
    )

    def __post_init__(self) -> None:
        check_source(self, "quality")
        check_source(self, "vectors", "Embedding")
        check_number(self, "alpha", 0, 1)
        if self.neighbors is not None:
            check_number(self, "neighbors", 1, integer=True)
        if not isinstance(self.normalize, bool):
            raise ConfigError(f"QDIT(normalize={self.normalize!r}): it has to be true or false.")
        object.__setattr__(self, "nested", not self.normalize)

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows in the order in which the greedy algorithm selects them."""
        quality, vectors = context.values(self.quality), context.vectors(self.vectors)
        all_rows = np.arange(len(quality))
        # Rows without a quality are represented too, but never selected.
        rows = context.candidates(vectors, all_rows, name=column_name(self.vectors))
        candidates = context.candidates(quality[rows], rows, name=column_name(self.quality))
        budget = min(context.budget, len(candidates))
        return context.pick(
            rows,
            lambda progress: facility_location(
                take_rows(vectors, rows),
                quality[rows],
                budget,
                self.alpha,
                neighbors=self.neighbors,
                normalize=self.normalize,
                progress=progress,
            ),
        )

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return a sentence on the selected row that represents this row best."""
        ranks = np.flatnonzero(selected == row)
        before = selected[: ranks[0]] if len(ranks) else selected
        if not len(before):
            return ["It was the first row selected."]
        nearest, cosine = nearest_by_cosine(context.vectors(self.vectors), before, [row])
        if nearest[0] < 0:
            return ["It has no vector."]
        when = "selected before it" if len(ranks) else "selected"
        other = context.row_number(nearest[0])
        return [f"Of the rows {when}, {other} represents it best, with a cosine of {cosine[0]:.4g}."]
