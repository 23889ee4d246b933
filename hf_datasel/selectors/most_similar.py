"""MostSimilar: rows with the embeddings that are most similar to those of a target task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_datasel.rounds.selector import check_source
from hf_datasel.rounds.target_selector import SimilaritySelector
from hf_datasel.scores.similarity import Similarity
from hf_datasel.scoring.target_rows import TargetRows

__all__ = ["MostSimilar"]


@dataclass(frozen=True)
class MostSimilar(SimilaritySelector):
    """Rows whose embeddings are most similar to those of target rows, which name rows in turn.

    Each target row, or each subtask, names the row with the highest cosine that it has not named yet, as in `RDSPlus`,
    for any embedding: of a sentence encoder, of an endpoint, or of a causal LM with other settings.

    To select from a scored dataset, name the score without its model, and the similarities are read from the columns
    if these have the same settings. Or name the column, `by="similarity"`, and it is read as it is, together with
    `similarity_by_target`; the target rows are not known then, so that rows that repeat them are not found.

    Cost: that of the encoder; none with columns.

    Reference: the baselines "Embed" of Ivison et al. 2025 (2503.01807), section 3, whose encoders are NV-Embed-v2 and
    GTR-base.

    >>> from hf_datasel.scores import Similarity
    >>> MostSimilar(by=Similarity("sentence-transformers/gtr-t5-base", validation="gsm8k.jsonl")).by.pooling
    'mean'

    Args:
        by: `Similarity(...)`, which names the encoder and the target rows; or the name of the column that it wrote,
            with `by_target=True`.
        copies: What happens with rows that repeat a target row: `"exclude"` or `"keep"`. They are counted, and named
            in a warning, either way.
    """

    by: str | Similarity

    title: ClassVar[str] = "Embedding similarity"
    citation = Similarity.citation

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source(self, "by", "Similarity")

    @property
    def similarity(self) -> str | Similarity:
        """The score, or the column with it."""
        return self.by

    def target(self) -> TargetRows | None:
        """Return the target rows; None if a column is named."""
        return None if isinstance(self.by, str) else self.by.target()
