"""Long is more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hf_datasel.rounds.ranked_selector import Ranked
from hf_datasel.scores import Length

__all__ = ["Longest"]


@dataclass(frozen=True)
class Longest(Ranked):
    """The rows with the longest responses, in words (default) or in tokens; ties go to the lower row number.

    Reference: Zhao et al. 2024 (2402.04833), "Long is more for alignment"; a baseline of IterIT.
    """

    unit: Literal["words", "tokens"] = "words"

    citation = Length.citation

    def __post_init__(self) -> None:
        Length(self.unit)

    @property
    def ranks_by(self) -> Length:
        return Length(self.unit)

    @property
    def value_column(self) -> str:
        return "response_words" if self.unit == "words" else "response_tokens"
