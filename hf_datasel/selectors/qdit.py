"""Good rows that stand for the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.cache import taken
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import Selector, check_number, check_source, column_of
from hf_datasel.strategies.facility import facility_location, nearest_by_cosine

if TYPE_CHECKING:
    from hf_datasel.scores import Embedding
    from hf_datasel.scoring.base import Score

__all__ = ["QDIT"]


@dataclass(frozen=True)
class QDIT(Selector):
    """Rows chosen one at a time by how much better they stand for all rows than what is chosen, and by their quality.

    Each step takes the row that adds most to `(1 - alpha)` x the sum over all rows of the cosine with the nearest
    chosen row + `alpha` x the sum of the quality of the chosen rows. The first sum grows with the rows, the second
    with the budget, so that the paper's `alpha` means another mixture for every dataset: `normalize=True` brings both
    to one scale, by the budget, so that a smaller choice need not be the beginning of a larger one.

    Cost: rows x rows x dimensions, a few times; above some hundred thousand rows pass `neighbors`, which is
    approximate (see `facility_location`).
    Reference: Bukharin et al. 2024 (2311.14736), Eq. 1, section 3.2 and Algorithm 1; a baseline of Yu et al. 2024
    (2409.11378). The paper takes a reward for quality and tries an `alpha` from 0 to 1; 0.5 is ours, as are
    `normalize` and `neighbors`.
    """

    quality: str | Score = field(kw_only=True)
    """Column, or a score such as `Reward("name or path")`."""
    vectors: str | Embedding = "embedding"
    """Column of vectors, or `Embedding(...)`."""
    alpha: float = 0.5
    normalize: bool = False
    neighbors: int | None = None
    """A row is stood for only by so many rows most like it; None: by any."""

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
            check_number(self, "neighbors", 1, whole=True)
        if not isinstance(self.normalize, bool):
            raise ConfigError(f"QDIT(normalize={self.normalize!r}): it has to be true or false.")
        object.__setattr__(self, "nested", not self.normalize)

    def choose(self, round: Round) -> np.ndarray:
        quality, vectors = round.values(self.quality), round.vectors(self.vectors)
        name = column_of(self.vectors)
        every = np.arange(len(quality))
        rows = round.candidates(vectors, every, name=name)  # to be stood for, with a quality or without
        quality_name = column_of(self.quality)
        budget = min(round.budget, len(round.candidates(quality[rows], rows, name=quality_name)))
        return round.pick(
            rows,
            lambda progress: facility_location(
                taken(vectors, rows),
                quality[rows],
                budget,
                self.alpha,
                neighbors=self.neighbors,
                normalize=self.normalize,
                progress=progress,
            ),
        )

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        at = np.flatnonzero(chosen == row)
        before = chosen[: at[0]] if len(at) else chosen
        if not len(before):
            return ["It was the first row chosen."]
        nearest, cosine = nearest_by_cosine(round.vectors(self.vectors), before, [row])
        if nearest[0] < 0:
            return ["It has no vector."]
        when = "chosen before it" if len(at) else "chosen"
        other = round.row_number(nearest[0])
        return [f"Of the rows {when}, {other} stands for it best, with a cosine of {cosine[0]:.4g}."]
