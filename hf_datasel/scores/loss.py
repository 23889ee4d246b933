"""Cross-entropy loss of the response, or of the full row."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import check_option
from hf_datasel.scoring.base import Columns, ModelScore, finite_or_null, null_counts
from hf_datasel.scoring.logprobs import SummedNLL
from hf_datasel.tokens import Sequences, TokenRows
from hf_datasel.tokens.sequences import Sequence

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["Loss"]

_COLUMNS = {
    ("response", "mean"): "loss",
    ("response", "sum"): "loss_sum",
    ("pair", "mean"): "loss_pair",
    ("pair", "sum"): "loss_pair_sum",
}


@dataclass(frozen=True)
class Loss(ModelScore):
    """Mean or summed loss, in nats, of the response or the full row, exactly as `SFTTrainer` trains on it.

    Reads any supported row format that has a response. Writes `loss` (float32) and `loss_reason` ("" for a scored
    row); with other settings `loss_sum`, `loss_pair` or `loss_pair_sum`, and the reason under the same name. Cost: one
    forward pass per row, shared by the mean and the sum, and with `IFD` if `over="response"`.

    Reference: Xia et al. 2024 (2410.09335). The default is the mean, as in its code; `Loss(reduction="sum",
    over="pair")` is its Eq. 7, in nats: divide by ln 2 for bits.

    Args:
        model: Name or path of the model. None uses the model of the round, or the `model` of `hf_datasel.score`.
        revision: Commit, branch or tag of a Hub model.
        reduction: How the losses of a row's tokens are reduced. A sum grows with the number of tokens.
        over: Which tokens are scored. `"pair"` scores every token of the row after truncation as in training: prompt,
            responses and the tokens of the chat template, except the first token, which has no context. A row whose
            response has no loss has no pair loss either.
        dtype: Data type of the weights: "auto" or the name of a floating-point type.
        model_init_kwargs: Further arguments of `from_pretrained`, as in `SFTConfig`.
        max_length: Number of tokens that rows are truncated to. None uses the `max_length` of the training arguments,
            and 1,024 outside a trainer.
        column_prefix: Prefix of the name of every column that the score writes.
    """

    reduction: Literal["mean", "sum"] = field(default="mean", kw_only=True)
    over: Literal["response", "pair"] = field(default="response", kw_only=True)

    citation = (
        "@article{xia2024rethinking, title={Rethinking Data Selection at Scale: Random Selection is Almost All You "
        "Need}, author={Xia, Tingyu and Yu, Bowen and Dang, Kai and Yang, An and Wu, Yuan and Tian, Yuan and Chang, "
        "Yi and Lin, Junyang}, journal={arXiv preprint arXiv:2410.09335}, year={2024}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option(f"Loss(reduction={self.reduction!r})", self.reduction, ("mean", "sum"))
        check_option(f"Loss(over={self.over!r})", self.over, ("response", "pair"))

    @property
    def column(self) -> str:
        """Name of the column with the loss."""
        return f"{self.column_prefix}{_COLUMNS[self.over, self.reduction]}"

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the score writes and their types, without the prefix."""
        name = _COLUMNS[self.over, self.reduction]
        return {name: pa.float32(), f"{name}_reason": pa.string()}

    def column_identity(self, column: str) -> Hashable:
        """Return a value that is equal for two scores that write the same numbers into this column."""
        return (column, "sft", True, False, str(self.model_settings()), self.max_length)

    def _sequences(self, rows: TokenRows) -> Sequences:
        sequences = rows.training().conditional
        return sequences if self.over == "response" else _Pairs.of(sequences)

    def announce(self, rows: TokenRows, runner: ModelRunner) -> None:
        """Announce the forward pass that `compute` runs."""
        runner.announce(self._sequences(rows), SummedNLL())

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the columns for some rows."""
        tokens, sequences = rows.training(), self._sequences(rows)
        total, scored = runner.summed_nll(sequences, len(rows), "loss", null_counts(tokens.reasons))
        loss = np.full(len(rows), np.nan)
        np.divide(total, scored if self.reduction == "mean" else 1, out=loss, where=scored > 0)
        values, reasons = finite_or_null([loss], tokens.reasons)
        return dict(zip(self.columns(), [values[0], reasons], strict=True))


class _Pairs(Sequences):
    """Sequences in which every token but the first is scored; equal for equal rows, so that scores share the pass."""

    @classmethod
    def of(cls, sequences: Sequences) -> _Pairs:
        """Return the sequences of full rows with every token but the first scored."""
        return cls(sequences.data, sequences.owner)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.scored = self.lengths - 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Pairs) and other.data is self.data

    def __hash__(self) -> int:
        return id(self.data)

    def fetch(self, indices: np.ndarray) -> list[Sequence]:
        """Return the sequences at these indices."""
        return [Sequence(sequence.ids, np.arange(1, len(sequence.ids))) for sequence in super().fetch(indices)]
