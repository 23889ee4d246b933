"""How hard the prompt itself is to foresee."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_datasel.scores.ifd import IFD
from hf_datasel.scoring.base import Columns, ModelScore, finite_or_null, null_counts
from hf_datasel.tokens import Sequences, TokenRows
from hf_datasel.tokens.sequences import Sequence

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelContext

__all__ = ["Convention", "PromptLoss"]

Convention = Literal["sft", "iterit", "superfiltering", "cherry"]


@dataclass(frozen=True)
class PromptLoss(ModelScore):
    """Mean loss, in nats, of the tokens before the first response: the logarithm of the prompt's perplexity.

    Reads any supported row format that has a response. Writes `loss_prompt` (float32) and `loss_prompt_reason` ("" for
    a scored row). Cost: one forward pass over the prompts alone.
    Reference: Li et al. 2024 (2308.12032), the code for the rows of the warm-up.
    """

    convention: Convention = field(default="sft", kw_only=True)
    """Of the tokens; see `IFD`."""

    citation = IFD.citation

    def __post_init__(self) -> None:
        super().__post_init__()
        self._as_ifd()

    def _as_ifd(self) -> IFD:
        return IFD(convention=self.convention, max_length=self.max_length)

    def columns(self) -> dict[str, pa.DataType]:
        return {"loss_prompt": pa.float32(), "loss_prompt_reason": pa.string()}

    def compute(self, rows: TokenRows, context: ModelContext) -> Columns:
        tokens = self._as_ifd().tokens(rows)
        prompts = _Prompts.of(tokens.conditional)
        short = np.setdiff1d(tokens.conditional.owner, prompts.owner)
        reasons = tokens.reasons.astype(object)
        reasons[short] = "no_prompt_token"
        loss = context.mean_nll(prompts, len(rows), "loss_prompt", null_counts(reasons))
        values, nulls = finite_or_null([loss], reasons.astype(np.str_))
        return {"loss_prompt": values[0], "loss_prompt_reason": nulls}


class _Prompts(Sequences):
    """What stands before the first response of each row, with every token but the first one scored."""

    @classmethod
    def of(cls, sequences: Sequences) -> _Prompts:
        """Those of whole rows, without prompts of a single token, which has nothing before it."""
        kept = np.flatnonzero(_starts(sequences) >= 2)
        return cls(sequences.data.select(kept), sequences.owner[kept])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.lengths = _starts(self)
        self.scored = self.lengths - 1

    def fetch(self, at: np.ndarray) -> list[Sequence]:
        whole = zip(super().fetch(at), self.lengths[at].tolist(), strict=True)
        return [Sequence(each.ids[:stop], np.arange(1, stop)) for each, stop in whole]


def _starts(sequences: Sequences) -> np.ndarray:
    """Where the first response begins in each sequence, int64."""
    if not len(sequences.data):  # whose columns have no type
        return np.empty(0, dtype=np.int64)
    spans = sequences.data.select_columns([sequences.spans]).with_format("arrow")[:].column(sequences.spans)
    starts: np.ndarray = pc.list_element(spans, 0).cast("int64").to_numpy()
    return starts
