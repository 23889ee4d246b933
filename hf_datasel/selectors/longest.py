"""Long is more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from hf_datasel.scores import Length
from hf_datasel.selectors.base import Selector
from hf_datasel.selectors.round import Round
from hf_datasel.selectors.top import top_rows

__all__ = ["Longest"]


@dataclass(frozen=True)
class Longest(Selector):
    """The rows with the longest responses, in words (default) or in tokens; ties go to the lower row number.

    Reference: Zhao et al. 2024 (2402.04833), "Long is more for alignment"; a baseline of IterIT.
    """

    unit: Literal["words", "tokens"] = "words"

    nested: ClassVar[bool] = True
    citation = Length.citation

    def __post_init__(self) -> None:
        Length(self.unit)

    def choose(self, round: Round) -> np.ndarray:
        column = "response_words" if self.unit == "words" else "response_tokens"
        lengths = round.score(Length(self.unit))[column].astype(np.float64)
        return top_rows(round, lengths, np.arange(len(round.rows)), name=column)
