"""Mean loss of the labelled tokens of rows, as they are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_datasel.formats import POOL_ROW
from hf_datasel.scoring.base import Columns, ModelScore
from hf_datasel.tokens import Sequences, TokenRows

if TYPE_CHECKING:
    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["LabelLoss"]


@dataclass(frozen=True)
class LabelLoss(ModelScore):
    """Mean loss, in nats, of the tokens of a row that have a label in training, whether they are a response or not.

    `Loss` scores responses; the two are equal where exactly the response has labels, and share results then. Writes
    `label_loss` (float64). In a trainer only.

    Args:
        model: As in `Loss`.
        revision: As in `Loss`.
        dtype: As in `Loss`.
        model_init_kwargs: As in `Loss`.
        max_length: As in `Loss`.
        column_prefix: As in `Loss`.
    """

    def columns(self) -> dict[str, pa.DataType]:
        """Return the column that the score writes and its type."""
        return {"label_loss": pa.float64()}

    def compute(self, rows: TokenRows, runner: ModelRunner) -> Columns:
        """Compute the column for some rows; null for rows without a labelled token."""
        position = np.full(len(rows.pool), -1, dtype=np.int64)
        position[rows.indices] = np.arange(len(rows))
        numbers = np.asarray(rows.prepared.with_format("numpy")[POOL_ROW][:], dtype=np.int64)
        data = rows.prepared.select(np.flatnonzero(position[numbers] >= 0)).select_columns(["input_ids", "labels"])
        data = data.map(_add_spans, remove_columns=["labels"], desc="Locating the labels", keep_in_memory=True)
        sequences = Sequences(data, position[numbers[position[numbers] >= 0]])
        total, tokens = runner.summed_nll(sequences, len(rows), "initial loss")
        return {"label_loss": pa.array(total / np.maximum(tokens, 1), mask=tokens == 0)}


def _add_spans(row: dict[str, Any]) -> dict[str, list[int]]:
    """Add start and stop of each run of tokens with a label; the first token has no context and no loss."""
    has_label = np.concatenate([[False], np.asarray(row["labels"]) != -100, [False]])
    has_label[1] = False
    return {"spans": np.flatnonzero(np.diff(has_label.astype(np.int8))).tolist()}
