"""What the model finds hardest to answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_datasel.rounds.ranked_selector import Ranked
from hf_datasel.rounds.selector import check_source
from hf_datasel.scores import Loss

__all__ = ["CrossEntropy"]


@dataclass(frozen=True)
class CrossEntropy(Ranked):
    """The rows with the highest loss on the response: those that the model has most to learn from, and the noisiest.

    `CrossEntropy()` scores with the model of the round; `CrossEntropy(by=Loss("name or path"))` with another one;
    `CrossEntropy(by="loss")` takes a column.

    Reference: a baseline of Xia et al. 2024 (2410.09335), section 3.1. The default averages over the response, as
    their code is meant to. Their Eq. 7 sums over prompt and response, `Loss(over="pair", reduction="sum")`, in
    bits instead of nats, which changes no order.
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
        return self.by
