"""Superfiltering: the highest IFD, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_datasel.rounds.ifd_selector import IFDSelector
from hf_datasel.rounds.ranked_selector import Ranked
from hf_datasel.scores.ifd import IFD

__all__ = ["Superfiltering"]


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
