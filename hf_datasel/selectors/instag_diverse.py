"""InsTag: rows with many tags, whose tags differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_datasel import scores
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.labels import (
    candidate_labels,
    check_labels,
    describe_labels,
    labels_name,
    read_labels,
)
from hf_datasel.rounds.selector import Selector, check_number
from hf_datasel.strategies.tag_coverage import complexity_first

if TYPE_CHECKING:
    from hf_datasel.scores import InsTag

__all__ = ["InsTagDiverse"]


@dataclass(frozen=True)
class InsTagDiverse(Selector):
    """Rows with the most tags, in passes in which each row has a tag that no other row of the pass has yet.

    This is the complexity-first diverse sampling of InsTag. Rows are sorted by their number of tags. A pass walks
    through the remaining rows, and selects each one with a tag that no row of this pass has; passes are repeated until
    the budget is reached. Rows without a tag are never selected.

    Cost: no model beyond that of the tags; a second for 100,000 rows.

    Reference: Lu et al. 2023 (2308.07074), Algorithm 1; a baseline of MIG (2504.13835). Ties, which the paper leaves
    open, are in row order.

    Args:
        tags: Column of tags (lists of texts, or texts), or `InsTag(...)`.
        min_count: Tags of fewer rows are ignored. The paper ignores those that occur less than 20 times, before it
            merges tags; MIG those of the published tagger that occur once. Here they are counted as the column has
            them.
    """

    tags: str | InsTag = "tags"
    min_count: int = 1

    nested: ClassVar[bool] = True
    title: ClassVar[str] = "InsTag"
    citation = scores.InsTag.citation

    def __post_init__(self) -> None:
        check_labels(self, "tags", ("InsTag",))
        check_number(self, "min_count", 1, integer=True)

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows in the order of the passes."""
        rows = np.flatnonzero(context.eligible)
        labels = read_labels(context, self.tags, are_texts=True)
        rows, labels = candidate_labels(context, labels, rows, self.min_count, labels_name(self.tags))
        budget = min(context.budget, len(rows))
        return context.pick(rows, lambda progress: complexity_first(labels.matrix, budget, progress))

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return a sentence on the tags of the row, and on how many selected rows have each."""
        labels = read_labels(context, self.tags, are_texts=True)
        return describe_labels(context, labels, selected, row, self.min_count, labels_name(self.tags))
