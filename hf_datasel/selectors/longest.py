"""Rows with the longest responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hf_datasel.rounds.ranked_selector import RankedSelector
from hf_datasel.scores import Length

__all__ = ["Longest"]


@dataclass(frozen=True)
class Longest(RankedSelector):
    """Rows with the longest responses.

    Ties go to the lower row number. No model is needed; counting tokens needs the tokenizer of the model.

    Cost: none.

    Reference: Zhao et al. 2024 (2402.04833), "Long is more for alignment"; a baseline of IterIT (2412.17365).

    Args:
        unit: What is counted: `"words"` (default) or `"tokens"` of the response.
    """

    unit: Literal["words", "tokens"] = "words"

    citation = Length.citation

    def __post_init__(self) -> None:
        Length(self.unit)

    @property
    def ranks_by(self) -> Length:
        """Score that rows are ranked by."""
        return Length(self.unit)

    @property
    def value_column(self) -> str:
        """Name of the column that rows are ranked by."""
        return "response_words" if self.unit == "words" else "response_tokens"
