"""IFD, once: Superfiltering, and the base that other selectors by IFD share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.scores import IFD
from hf_datasel.selectors.base import Selector
from hf_datasel.selectors.round import Round
from hf_datasel.selectors.top import Ranked

__all__ = ["IFDSelector", "Superfiltering"]


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


@dataclass(frozen=True)
class Superfiltering(IFDSelector, Ranked):
    """The rows with the highest IFD below 1: hard to answer, but easier with the instruction than without.

    Reference: Li et al. 2024 (2402.00530), which scores with a small model; IterIT's baseline scores with the model to
    be trained. `convention="superfiltering"` scores with its authors' prompt.
    """

    below: ClassVar[float | None] = 1.0
    citation = (
        "@article{li2024superfiltering, title={Superfiltering: Weak-to-Strong Data Filtering for Fast "
        "Instruction-Tuning}, author={Li, Ming and Zhang, Yong and He, Shwai and Li, Zhitao and Zhao, Hongyu and "
        "Wang, Jianzong and Cheng, Ning and Zhou, Tianyi}, journal={arXiv preprint arXiv:2402.00530}, year={2024}}"
    )

    @property
    def ranks_by(self) -> str | IFD:
        return self.source
