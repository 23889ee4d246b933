"""MostSimilar: rows with the embeddings that are most similar to those of a target task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.target_selector import SimilaritySelector
from hf_datasel.scores.similarity import Similarity
from hf_datasel.scoring.target_rows import TargetRows

__all__ = ["MostSimilar"]


@dataclass(frozen=True)
class MostSimilar(SimilaritySelector):
    """Rows whose embeddings are most similar to those of target rows, which name rows in turn.

    Each target row, or each subtask, names the row with the highest cosine that it has not named yet, as in `RDSPlus`,
    for any embedding: of a sentence encoder, of an endpoint, or of a causal LM with other settings.

    Reference: the baselines "Embed" of Ivison et al. 2025 (2503.01807), section 3, whose encoders are NV-Embed-v2 and
    GTR-base.

    >>> from hf_datasel.scores import Similarity
    >>> MostSimilar(by=Similarity("sentence-transformers/gtr-t5-base", validation="gsm8k.jsonl")).by.pooling
    'mean'

    Args:
        by: `Similarity(...)`, which names the encoder and the target rows.
        copies: What happens with rows that repeat a target row: `"exclude"` or `"keep"`. They are counted, and named
            in a warning, either way.
    """

    by: Similarity

    title: ClassVar[str] = "Embedding similarity"
    citation = Similarity.citation

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.by, Similarity):
            raise ConfigError(f"MostSimilar(by={self.by!r}): it has to be Similarity(...).")

    @property
    def similarity(self) -> Similarity:
        """The score."""
        return self.by

    def target(self) -> TargetRows:
        """Return the target rows."""
        return self.by.target()
