"""RDS+: rows whose hidden states are most similar to those of a target task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_datasel.rounds.target_selector import SimilaritySelector
from hf_datasel.scores.similarity import Similarity
from hf_datasel.scoring.target_rows import TargetSettings

__all__ = ["RDSPlus"]


@dataclass(frozen=True)
class RDSPlus(TargetSettings, SimilaritySelector):
    """Rows whose hidden states are most similar to those of target rows, which name rows in turn.

    The embedding of a row is the mean of the last hidden states over all of its tokens, prompt and response, in which
    token i of n has the weight i / (1 + ... + n). Each target row names the row with the highest cosine that it has
    not named yet. With a column of subtasks each subtask does so, by the highest cosine with any of its rows.

    In a trainer rows are selected once, by the base model, and read as training reads them. Without a model the
    similarities are read from the columns that `Similarity(as_trained=True, pooling="weighted_mean", by_target=True)`
    wrote for the same target rows. `MostSimilar` has the settings of `Similarity`, such as the data type of the
    weights.

    Cost: one forward pass over all rows.

    Reference: Ivison et al. 2025 (2503.01807), sections 3 and 3.1, Algorithm 1 and appendix G.2. Algorithm 1 adds a
    row again if another target row names it, and counts it; the text removes duplicates where there are several tasks,
    and the authors' code does so always before it counts, which is done here. Their code selects from several tasks
    with one file of scores each, of which `subtask` makes one.

    >>> RDSPlus(validation="bbh.jsonl", subtask="task").similarity.pooling
    'weighted_mean'

    Args:
        model: Hub id or path of the model. None is the model in training, or the `model` of `select`.
        revision: Commit, branch or tag of a Hub `model`.
        validation: Rows of the target task: a file, a folder or a dataset on the Hub. The paper takes 8 to 500 rows of
            a development set.
        validation_config: Configuration of a dataset on the Hub.
        validation_split: Split of `validation`.
        validation_columns: Names of the columns of the target rows; see `Similarity`.
        subtask: Column of the target rows with the task of each; None treats all rows as one task.
        copies: What happens with rows that repeat a target row: `"exclude"` or `"keep"`, as the paper does. They are
            counted, and named in a warning, either way.
    """

    model: str | None = None
    revision: str | None = None

    title: ClassVar[str] = "RDS+"
    citation = Similarity.citation

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_target()
        _ = self.similarity

    @property
    def similarity(self) -> Similarity:
        """The score."""
        return Similarity(
            self.model,
            revision=self.revision,
            validation=self.validation,
            validation_config=self.validation_config,
            validation_split=self.validation_split,
            validation_columns=self.validation_columns,
            subtask=self.subtask,
            as_trained=True,
            pooling="weighted_mean",
        )
