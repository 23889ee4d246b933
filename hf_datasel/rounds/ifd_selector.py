"""Base class of selectors that use IFD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.rounds.context import Round
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores.ifd import IFD

__all__ = ["IFDSelector"]


@dataclass(frozen=True)
class IFDSelector(Selector):
    """Where a selector's IFD comes from: a column of the dataset, or a model."""

    quality: str | None = None
    """Column to use instead of computing IFD; taken as it is."""
    model: str | None = None
    """Whose IFD; None is the model being trained, or the `model` of `select`."""
    revision: str | None = None
    """Commit, branch or tag of a Hub `model`."""
    convention: Literal["sft", "iterit", "superfiltering", "cherry"] = "sft"

    def __post_init__(self) -> None:
        self.score()
        if self.quality is not None and (self.model, self.revision, self.convention) != (None, None, "sft"):
            raise ConfigError(
                f"{type(self).__name__}(quality={self.quality!r}) takes that column as it is: leave model, revision "
                "and convention out, or quality."
            )

    def score(self) -> IFD:
        """The score that is computed where no column is given."""
        return IFD(self.model, revision=self.revision, convention=self.convention)

    def ifd(self, round: Round, rows: np.ndarray) -> np.ndarray:
        """IFD of these rows, float64, NaN where a row has none."""
        return round.values(self.source, rows)

    @property
    def source(self) -> str | IFD:
        """The column that is used, or the score that is computed."""
        return self.score() if self.quality is None else self.quality

    @property
    def quality_name(self) -> str:
        """What the score is called in messages."""
        return self.quality or "ifd"
