"""Mean loss of the labelled tokens of rows, as they are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hf_datasel._lazy import pc
from hf_datasel.formats import POOL_ROW
from hf_datasel.scoring.base import Columns, ModelScore
from hf_datasel.tokens import Sequences, TokenRows

if TYPE_CHECKING:
    from datasets import Dataset

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
        with rows.main_process_first():
            data = with_label_spans(rows.prepared)
        owner = position[np.asarray(data.with_format("numpy")[POOL_ROW][:], dtype=np.int64)]
        has_span = pc.list_value_length(data.with_format("arrow")[:].column("spans")).to_numpy() > 0
        selected = np.flatnonzero((owner >= 0) & has_span)
        sequences = Sequences(data.select(selected), owner[selected])
        total, tokens = runner.summed_nll(sequences, len(rows), "initial loss")
        return {"label_loss": pa.array(total / np.maximum(tokens, 1), mask=tokens == 0)}


def with_label_spans(tokens: Dataset) -> Dataset:
    """Return `pool_row`, `input_ids` and `spans` of each row, on disk if the tokens are.

    `spans` has start and stop of each run of tokens with a label, flattened as (start, stop, start, stop, ...). The
    first token has no context and no loss.

    Args:
        tokens: Dataset with `pool_row`, `input_ids` and `labels`.
    """
    from datasets import Features, List, Value

    columns = [POOL_ROW, "input_ids"]
    return (
        tokens.select_columns([*columns, "labels"])
        .with_format("arrow")
        .map(
            _with_spans,
            batched=True,
            features=Features({**{name: tokens.features[name] for name in columns}, "spans": List(Value("int32"))}),
            desc="Locating the labels",
        )
    )


def _with_spans(table: pa.Table) -> pa.Table:
    labels = table.column("labels").combine_chunks()
    lengths = labels.value_lengths().to_numpy(zero_copy_only=False)
    gaps = np.cumsum(lengths + 1) - lengths - 1  # an unlabelled token before each row, and one after the last
    has_label = np.zeros(int(lengths.sum()) + len(lengths) + 1, dtype=np.int8)
    is_token = np.ones(len(has_label), dtype=bool)
    is_token[[*gaps, -1]] = False
    has_label[is_token] = labels.flatten().to_numpy(zero_copy_only=False) != -100
    has_label[gaps + 1] = 0  # the first token, or the next gap
    edges = np.flatnonzero(np.diff(has_label))
    row = np.searchsorted(gaps, edges, side="right") - 1
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(gaps)))])
    spans = pa.ListArray.from_arrays(offsets.astype(np.int32), (edges - gaps[row]).astype(np.int32))
    return table.drop_columns(["labels"]).append_column("spans", spans)
