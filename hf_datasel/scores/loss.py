"""Cross-entropy of the response, or of the whole row."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ConfigError, did_you_mean
from hf_datasel.scoring.base import Columns, ModelScore, finite_or_null, null_counts
from hf_datasel.scoring.logprobs import SummedNLL
from hf_datasel.tokens import Sequences, TokenRows
from hf_datasel.tokens.sequences import Sequence

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelContext

__all__ = ["Loss"]

_COLUMNS = {
    ("response", "mean"): "loss",
    ("response", "sum"): "loss_sum",
    ("pair", "mean"): "loss_pair",
    ("pair", "sum"): "loss_pair_sum",
}


@dataclass(frozen=True)
class Loss(ModelScore):
    """Mean or summed loss, in nats, of the response or the whole row, exactly as `SFTTrainer` trains on it.

    Reads any supported row format that has a response. Writes `loss` (float32) and `loss_reason` ("" for a scored
    row); with the other settings `loss_sum`, `loss_pair` or `loss_pair_sum`, and the reason under the same name. Cost:
    one forward pass, shared by the mean and the sum, and with `IFD` where it is over the response.
    Reference: Xia et al. 2024 (2410.09335): the default is the mean that its code takes, and
    `Loss(reduction="sum", over="pair")` its Eq. 7, in nats: divide by ln 2 for bits.
    """

    reduction: Literal["mean", "sum"] = field(default="mean", kw_only=True)
    """Of the losses of a row's tokens. A sum grows with the number of tokens."""
    over: Literal["response", "pair"] = field(default="response", kw_only=True)
    """`"pair"` takes every token of the row that training puts into the model, after truncation: prompt, responses
    and all that the chat template adds, but the first one, which nothing stands before. A row without a loss of its
    response has none of the pair either."""

    citation = (
        "@article{xia2024rethinking, title={Rethinking Data Selection at Scale: Random Selection is Almost All You "
        "Need}, author={Xia, Tingyu and Yu, Bowen and Dang, Kai and Yang, An and Wu, Yuan and Tian, Yuan and Chang, "
        "Yi and Lin, Junyang}, journal={arXiv preprint arXiv:2410.09335}, year={2024}}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, options in (("reduction", ["mean", "sum"]), ("over", ["response", "pair"])):
            value = getattr(self, name)
            if value not in options:
                hint = did_you_mean(str(value), options)
                raise ConfigError(f"Loss({name}={value!r}): it has to be one of {options}.{hint}")

    @property
    def column(self) -> str:
        """Name of the column with the score itself."""
        return f"{self.column_prefix}{_COLUMNS[self.over, self.reduction]}"

    def columns(self) -> dict[str, pa.DataType]:
        name = _COLUMNS[self.over, self.reduction]
        return {name: pa.float32(), f"{name}_reason": pa.string()}

    def meaning(self, column: str) -> Hashable:
        return (column, "sft", True, False, str(self.model_settings()), self.max_length)

    def _sequences(self, rows: TokenRows) -> Sequences:
        whole = rows.training().conditional
        return whole if self.over == "response" else _Pairs.of(whole)

    def announce(self, rows: TokenRows, context: ModelContext) -> None:
        context.announce(self._sequences(rows), SummedNLL())

    def compute(self, rows: TokenRows, context: ModelContext) -> Columns:
        tokens, sequences = rows.training(), self._sequences(rows)
        total, scored = context.summed_nll(sequences, len(rows), "loss", null_counts(tokens.reasons))
        loss = np.full(len(rows), np.nan)
        np.divide(total, scored if self.reduction == "mean" else 1, out=loss, where=scored > 0)
        values, reasons = finite_or_null([loss], tokens.reasons)
        return dict(zip(self.columns(), [values[0], reasons], strict=True))


class _Pairs(Sequences):
    """Sequences with every token but the first one scored. Equal for the same rows, so that their pass is shared."""

    @classmethod
    def of(cls, sequences: Sequences) -> _Pairs:
        """Those of whole rows."""
        return cls(sequences.data, sequences.owner)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.scored = self.lengths - 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Pairs) and other.data is self.data

    def __hash__(self) -> int:
        return id(self.data)

    def fetch(self, at: np.ndarray) -> list[Sequence]:
        return [Sequence(each.ids, np.arange(1, len(each.ids))) for each in super().fetch(at)]
