"""Loss of the prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.scores.ifd import IFD
from hf_datasel.scoring.base import Columns, ModelScore, finite_or_null, null_counts
from hf_datasel.tokens import Sequences, TokenRows, TokenSettings
from hf_datasel.tokens.sequences import Sequence

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["Convention", "PromptLoss"]

Convention = Literal["sft", "iterit", "superfiltering", "cherry"]


@dataclass(frozen=True)
class PromptLoss(ModelScore):
    """Mean loss, in nats, of the tokens before the first response: the logarithm of the prompt's perplexity.

    Reads any supported row format that has a response. Writes `loss_prompt` (float32) and `loss_prompt_reason` ("" for
    a scored row). Cost: one forward pass per row, over the prompt only.

    Reference: Li et al. 2024 (2308.12032), the code that selects the rows of the warm-up.

    Args:
        model: Name or path of the model. None uses the model of the round, or the `model` of `hf_datasel.score`.
        revision: Commit, branch or tag of a Hub model.
        convention: Prompts and token boundaries, as in `IFD`.
        dtype: Data type of the weights: "auto" or the name of a floating-point type.
        model_init_kwargs: Further arguments of `from_pretrained`, as in `SFTConfig`.
        max_length: Number of tokens that rows are truncated to. None uses the `max_length` of the training arguments,
            and 1,024 outside a trainer.
        column_prefix: Prefix of the name of every column that the score writes.
    """

    convention: Convention = field(default="sft", kw_only=True)

    citation = IFD.citation

    def __post_init__(self) -> None:
        super().__post_init__()
        self._as_ifd()

    def _as_ifd(self) -> IFD:
        return IFD(convention=self.convention, max_length=self.max_length)

    def token_settings(self) -> TokenSettings:
        """Return how rows are tokenized outside a trainer, as for `IFD`."""
        return self._as_ifd().token_settings()

    @property
    def needs_text(self) -> bool:
        """Whether the score reads the text of rows, for the prompts of a published convention."""
        return self._as_ifd().needs_text

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        return {"loss_prompt": pa.float32(), "loss_prompt_reason": pa.string()}

    def announce(self, rows: TokenRows, runner: ModelRunner) -> None:
        """Tokenize the rows."""
        self._as_ifd().tokens(rows)

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        tokens = self._as_ifd().tokens(rows)
        prompts = _Prompts.of(tokens.conditional)
        short = np.setdiff1d(tokens.conditional.owner, prompts.owner)
        reasons = tokens.reasons.astype(object)
        reasons[short] = "no_prompt_token"
        loss = runner.mean_nll(prompts, len(rows), "loss_prompt", null_counts(reasons))
        values, nulls = finite_or_null([loss], reasons.astype(np.str_))
        return {"loss_prompt": values[0], "loss_prompt_reason": nulls}


class _Prompts(Sequences):
    """Prompts of rows: the tokens before the first response, of which every one but the first is scored."""

    @classmethod
    def of(cls, sequences: Sequences) -> _Prompts:
        """Return the prompts of full rows, without those of a single token, which has no context."""
        usable = np.flatnonzero(sequences.first_positions() >= 2)
        return cls(sequences.data.select(usable), sequences.owner[usable])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.lengths = self.first_positions()
        self.scored = self.lengths - 1

    def fetch(self, indices: np.ndarray) -> list[Sequence]:
        """Return the prompts at these indices."""
        rows = zip(super().fetch(indices), self.lengths[indices].tolist(), strict=True)
        return [Sequence(row.ids[:stop], np.arange(1, stop)) for row, stop in rows]
