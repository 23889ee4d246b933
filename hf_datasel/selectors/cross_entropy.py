"""Cross-entropy: rows with the highest loss of the response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_datasel.rounds.ranked_selector import RankedSelector
from hf_datasel.rounds.selector import check_source
from hf_datasel.scores import Loss

__all__ = ["CrossEntropy"]


@dataclass(frozen=True)
class CrossEntropy(RankedSelector):
    """Rows with the highest loss of the response.

    These are the rows that the model predicts worst: the hardest ones, and the noisiest.

    `CrossEntropy()` scores with the model of the round, `CrossEntropy(by=Loss("name or path"))` with another model,
    and `CrossEntropy(by="loss")` reads a column.

    Cost: one forward pass over all rows.

    Reference: a baseline of Xia et al. 2024 (2410.09335), section 3.1. The default averages over the tokens of the
    response, as their code intends. Their Eq. 7 sums over prompt and response, `Loss(over="pair", reduction="sum")`,
    in bits instead of nats, which does not change the order of rows.

    Args:
        by: `Loss(...)`, or the name of a column.
    """

    by: str | Loss = Loss()

    title: ClassVar[str] = "Cross-entropy"
    citation = (
        "@article{xia2024rethinking, title={Rethinking Data Selection at Scale: Random Selection is Almost All You "
        "Need}, author={Xia, Tingyu and Yu, Bowen and Dang, Kai and Yang, An and Wu, Yuan and Tian, Yuan and Chang, "
        "Yi and Lin, Junyang}, journal={arXiv preprint arXiv:2410.09335}, year={2024}}"
    )

    def __post_init__(self) -> None:
        check_source(self, "by", "Loss")

    @property
    def ranks_by(self) -> str | Loss:
        """Column or score that rows are ranked by."""
        return self.by
