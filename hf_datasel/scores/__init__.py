"""Scores of rows: callables for `Dataset.map` and arguments of `hf_datasel.score`, one score per module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hf_datasel._lazy import lazy_imports
from hf_datasel.scoring.base import Columns, ModelScore, Score
from hf_datasel.spec import build, list_classes

if TYPE_CHECKING:
    from hf_datasel.scores.cluster import Cluster as Cluster
    from hf_datasel.scores.compressibility import Compressibility as Compressibility
    from hf_datasel.scores.contamination import Contamination as Contamination
    from hf_datasel.scores.deita_score import DeitaScore as DeitaScore
    from hf_datasel.scores.duplicates import Duplicates as Duplicates
    from hf_datasel.scores.embedding import Embedding as Embedding
    from hf_datasel.scores.ifd import IFD as IFD
    from hf_datasel.scores.imported_score import ImportedScore as ImportedScore
    from hf_datasel.scores.influence import Influence as Influence
    from hf_datasel.scores.instag import InsTag as InsTag
    from hf_datasel.scores.judge import Judge as Judge
    from hf_datasel.scores.language import Language as Language
    from hf_datasel.scores.length import Length as Length
    from hf_datasel.scores.loss import Loss as Loss
    from hf_datasel.scores.mix import Mix as Mix
    from hf_datasel.scores.nuggets import Nuggets as Nuggets
    from hf_datasel.scores.pass_rate import PassRate as PassRate
    from hf_datasel.scores.prompt_loss import PromptLoss as PromptLoss
    from hf_datasel.scores.refusal import Refusal as Refusal
    from hf_datasel.scores.repetition import Repetition as Repetition
    from hf_datasel.scores.reward import Reward as Reward
    from hf_datasel.scores.reward_gap import RewardGap as RewardGap
    from hf_datasel.scores.selectit import SelectIT as SelectIT
    from hf_datasel.scores.similarity import Similarity as Similarity
    from hf_datasel.scores.urls import URLs as URLs

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
__all__ += ["Columns", "ModelScore", "Score", "get_score", "list_scores", "score_for_column"]


def list_scores() -> dict[str, type[Score]]:
    """Return the scores of this package: module name -> class."""
    return list_classes("score")


def get_score(name: str, settings: Mapping[str, Any] | None = None, allow_imports: bool = False) -> Score:
    """Return a score from its name and settings, as recipes and the command line write them.

    Args:
        name: A module of this package (`"ifd"`), or another class (`"my_scores:Mine"`).
        settings: Its fields.
        allow_imports: Whether classes outside this package may be imported, which runs the code that is named.

    Raises:
        ConfigError: There is no such score or setting, a setting is missing or has a value it cannot have, or an
            import is not permitted.
    """
    score: Score = build("score", name, settings, allow_imports)
    return score


def score_for_column(column: str) -> str | None:
    """Return the name of the score of this package that writes a column of this name, `None` if none does.

    >>> score_for_column("ifd"), score_for_column("num_tokens"), score_for_column("price")
    ('ifd', 'length', None)
    """
    cls: Any
    for name, cls in list_scores().items():
        # the names of the columns depend on no setting that a score cannot be made without
        variants: list[Any] = [object.__new__(cls), *([cls(unit="tokens")] if name == "length" else [])]
        if any(column in variant.columns() for variant in variants):
            return name
    return None
