"""Cross-entropy of the response."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hf_datasel.scores.base import Columns, ModelScore
from hf_datasel.tokens import TokenRows

if TYPE_CHECKING:
    from hf_datasel.scores.context import ModelContext

__all__ = ["Loss", "finite_or_null"]


@dataclass(frozen=True)
class Loss(ModelScore):
    """Mean loss of the response tokens in nats, of the row exactly as `SFTTrainer` trains on it.

    Reads any supported row format that has a response. Writes `loss` (float32) and `loss_reason` ("" for a scored
    row). Cost: one forward pass. Reference: Xia et al. 2024 (2410.09335), Eq. 7, with the mean over the response that
    its code takes.
    """

    citation = "@article{xia2024rethinking, title={Rethinking Data Selection at Scale}, journal={arXiv:2410.09335}}"

    def columns(self) -> dict[str, pa.DataType]:
        return {"loss": pa.float32(), "loss_reason": pa.string()}

    def meaning(self, column: str) -> Hashable:
        return (column, "sft", True, False, self.model, self.revision, self.dtype, self.max_length)

    def compute(self, rows: TokenRows, context: ModelContext | None) -> Columns:
        assert context is not None
        tokens = rows.training()
        loss = context.mean_nll(tokens.conditional, len(rows), "loss")
        values, reasons = finite_or_null([loss], tokens.reasons)
        return {"loss": values[0], "loss_reason": reasons}


def finite_or_null(values: list[np.ndarray], reasons: np.ndarray) -> tuple[list[pa.Array], pa.Array]:
    """Float32 columns, null where they are not finite, and a reason for each row with a null that has none yet."""
    with np.errstate(over="ignore"):
        narrow = [value.astype(np.float32) for value in values]
    bad = [~np.isfinite(value) for value in narrow]
    reasons = np.where(np.logical_or.reduce(bad) & (reasons == ""), "not_finite", reasons)
    columns = [pa.array(value, mask=null, type=pa.float32()) for value, null in zip(narrow, bad, strict=True)]
    return columns, pa.array(reasons.tolist(), pa.string())
