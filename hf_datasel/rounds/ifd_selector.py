"""Base class of selectors that use the IFD score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.selector import Selector, distinct_scores
from hf_datasel.scores.ifd import IFD

if TYPE_CHECKING:
    from hf_datasel.scoring.base import Score

__all__ = ["IFDSelector"]


@dataclass(frozen=True)
class IFDSelector(Selector):
    """Selector that reads IFD from a column of the dataset or computes it with a model.

    Args:
        quality: Column to use instead of computing IFD. Its values are used unchanged.
        model: Hub id or path of the model that IFD is computed with. None is the model in training, or the `model` of
            `select`.
        revision: Commit, branch or tag of a Hub `model`.
        convention: How IFD is computed; see `hf_datasel.scores.IFD`.
    """

    quality: str | None = None
    model: str | None = None
    revision: str | None = None
    convention: Literal["sft", "iterit", "superfiltering", "cherry"] = "sft"

    def __post_init__(self) -> None:
        self.score()
        if self.quality is not None and not (isinstance(self.quality, str) and self.quality):
            raise ConfigError(f"{type(self).__name__}(quality={self.quality!r}): it has to be the name of a column.")
        if self.quality is not None and (self.model, self.revision, self.convention) != (None, None, "sft"):
            raise ConfigError(
                f"{type(self).__name__}(quality={self.quality!r}) uses that column as it is: leave out model, "
                "revision and convention, or quality."
            )

    def score(self) -> IFD:
        """Return the score that is computed where no column is named."""
        return IFD(self.model, revision=self.revision, convention=self.convention)

    def scores(self) -> tuple[Score, ...]:
        """Return the scores that the selector computes, with the IFD unless it is read from a column."""
        return distinct_scores([*super().scores(), *([] if self.quality is not None else [self.score()])])

    def ifd(self, context: RoundContext, rows: np.ndarray) -> np.ndarray:
        """Return the IFD of these rows, float64 of shape (rows,), NaN where a row has none."""
        return context.values(self.source, rows)

    @property
    def source(self) -> str | IFD:
        """Name of the column that is used, or the score that is computed."""
        return self.score() if self.quality is None else self.quality

    @property
    def quality_name(self) -> str:
        """Name of the score in messages."""
        return self.quality or "ifd"
