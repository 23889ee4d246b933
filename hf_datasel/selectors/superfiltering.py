"""Superfiltering: rows with the highest IFD below 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_datasel.rounds.ifd_selector import IFDSelector
from hf_datasel.rounds.ranked_selector import RankedSelector
from hf_datasel.scores.ifd import IFD

__all__ = ["Superfiltering"]


@dataclass(frozen=True)
class Superfiltering(IFDSelector, RankedSelector):
    """Rows with the highest IFD below 1: hard to answer, but easier with the instruction than without it.

    Ties go to the lower row number. Rows with an IFD of 1 or more are never selected.

    Cost: two forward passes of a small model over all rows.

    Reference: Li et al. 2024 (2402.00530), who score with a small model; IterIT (2412.17365) compares with it scored
    by the model to be trained. `convention="superfiltering"` scores with the prompt of the authors' code.

    Args:
        quality: Column to use instead of computing the IFD; it is used as it is.
        model: Hub id or path of the model whose IFD is computed. None is the model in training, or the `model` of
            `select`.
        revision: Commit, branch or tag of a Hub `model`.
        convention: Prompt and details of the IFD; see `hf_datasel.scores.IFD`.
    """

    below: ClassVar[float | None] = 1.0
    citation = (
        "@article{li2024superfiltering, title={Superfiltering: Weak-to-Strong Data Filtering for Fast "
        "Instruction-Tuning}, author={Li, Ming and Zhang, Yong and He, Shwai and Li, Zhitao and Zhao, Hongyu and "
        "Wang, Jianzong and Cheng, Ning and Zhou, Tianyi}, journal={arXiv preprint arXiv:2402.00530}, year={2024}}"
    )

    @property
    def ranks_by(self) -> str | IFD:
        """Column or score that rows are ranked by."""
        return self.source
