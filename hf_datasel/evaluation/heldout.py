"""Loss of the responses of held-out rows, in bits per byte."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from hf_datasel.errors import EvaluationError, check_option
from hf_datasel.evaluation.evaluated_model import EvaluatedModel
from hf_datasel.evaluation.heldout_rows import Excluded, HeldoutRows, read_rows
from hf_datasel.evaluation.row_results import RowResults
from hf_datasel.formats import Pool, Turn
from hf_datasel.scores.loss import Loss
from hf_datasel.scoring.cost import measure_cost
from hf_datasel.scoring.score_rows import score
from hf_datasel.tokens import TokenRows, TokenSettings

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["HeldoutLoss", "heldout_loss"]

_ROWS_PER_BLOCK = 1_000
_THINKING_KEYS = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldoutLoss(RowResults):
    """Loss of the responses of held-out rows, per row; see `heldout_loss`.

    Args:
        row_ids: SHA-256 of each row, uint8 of shape (rows, 32), as `Pool.row_ids`.
        reasons: Reason why a row has no value, str of shape (rows,); empty for rows with one.
        groups: Group of each row, str of shape (rows,).
        settings: Model and settings, plain values, and the cost of the run (see `hf_datasel.scoring.Cost`).
        nats: Summed negative log-likelihood of the response tokens in nats, float64 of shape (rows,); NaN for a row
            without a value.
        num_bytes: UTF-8 bytes of the responses, int64 of shape (rows,); 0 for a row without a value.
    """

    nats: np.ndarray
    num_bytes: np.ndarray

    kind: ClassVar[str] = "heldout_loss"

    @property
    def values(self) -> np.ndarray:
        """Bits per byte of each row, float64 of shape (rows,); NaN for a row without a value."""
        return self.nats / math.log(2) / np.where(self.num_bytes > 0, self.num_bytes, np.nan)

    def bits_per_byte(self, weighting: Literal["bytes", "rows"] = "bytes") -> float:
        """Return bits per byte over all rows with a value.

        Args:
            weighting: `"bytes"` divides all bits by all bytes, so that long responses count more: what compressing the
                rows would take. `"rows"` is the mean of the rows' values. A difference between models may have one
                sign with the one and the other with the other: report both.

        Raises:
            EvaluationError: It is another weighting.
        """
        check_option(f"weighting={weighting!r}", weighting, ("bytes", "rows"), EvaluationError)
        key = "bits_per_byte" if weighting == "bytes" else "mean_row_bits_per_byte"
        return float(self.summarize(self.reasons == "")[key])

    def summarize(self, rows: np.ndarray) -> dict[str, Any]:
        """Return bits per byte of some rows, weighted by bytes and by rows, and their number of bytes."""
        num_bytes = int(self.num_bytes[rows].sum())
        return {
            "bits_per_byte": float(self.nats[rows].sum() / math.log(2) / num_bytes),
            "mean_row_bits_per_byte": float(self.values[rows].mean()),
            "num_bytes": num_bytes,
        }


def heldout_loss(
    dataset: Dataset,
    model: Any,
    processing_class: PreTrainedTokenizerBase | None = None,
    *,
    group_by: str | None = None,
    columns: Mapping[str, str] | None = None,
    training_pool: Dataset | Pool | None = None,
    excluded: Excluded | None = None,
    max_length: int = 1024,
    revision: str | None = None,
    dtype: str = "auto",
    model_init_kwargs: dict[str, Any] | None = None,
    scoring_tokens_per_batch: int | None = None,
) -> HeldoutLoss:
    """Compute the loss of the responses of held-out rows in bits per byte, which does not depend on the tokenizer.

    The bits are those of `Loss(reduction="sum")`, divided by ln 2: every token that `SFTTrainer` trains on in the
    responses of the row, the tokens that end a response and what the chat template adds to it included. The bytes are
    those of the responses in the dataset, as UTF-8, the same for every model: of all turns that the loss covers, with
    thinking, and with tool calls as JSON with sorted keys; the chat template may write them differently. For rows that
    are tokenized already they are the bytes of the decoded response tokens without special tokens.

    A row has a value only if all of its responses were scored; each other row has a reason. `truncated`: a response
    does not fit into `max_length` tokens of the row. `response_not_rendered`: the chat template omits or changes a
    part of a response, such as thinking or tool calls, or the tokenizer does not represent it, or its first token has
    no context. Further reasons are those of `Loss`, and those of `excluded`.

    Neither the Hub nor an evaluation harness is needed. Cost: one forward pass per row. Bits per byte: Gao et al.
    2020, "The Pile" (2101.00027), section 3.1.

    Args:
        dataset: Held-out rows in any supported format that has a response. Their order does not matter.
        model: Name or path of the model, or a loaded causal LM together with `processing_class`.
        processing_class: Tokenizer of the loaded model.
        group_by: Name of a column whose values group the rows, such as their source.
        columns: Names of the columns of a row format, as in `hf_datasel.score`.
        training_pool: Rows that models are trained on, or their `Pool`, which may rename columns. An error names
            those of them that are held out.
        excluded: Row numbers that are not evaluated, by reason, such as `{"in_training_pool": rows_in_pool(...)}`.
        max_length: Number of tokens that a row with its responses may have.
        revision: Commit, branch or tag of a Hub model.
        dtype: Data type of the weights of a model that is named: "auto" or the name of a floating-point type.
        model_init_kwargs: Further arguments of `from_pretrained` for a model that is named.
        scoring_tokens_per_batch: Maximum number of padded tokens in a batch, as in `hf_datasel.score`.

    Returns:
        Bits and bytes per row, with groups, reasons and settings.

    Raises:
        EvaluationError: No row can be scored, rows are in the training pool, or arguments do not fit each other.
        ColumnError: The column of the groups does not exist, or is a list or a mapping.
        ConfigError: `max_length`, `dtype` or `model_init_kwargs` is invalid.
        FormatError: The rows are in no supported format, or have only a text column.
        ModelError: The model cannot be loaded or run, or has fewer than `max_length` positions.
    """
    if max_length is None:
        raise EvaluationError("max_length=None: name the number of tokens that a row may have, such as 1024.")
    evaluated = EvaluatedModel.of(model, processing_class, revision, dtype, model_init_kwargs)
    loading: dict[str, Any] = {"revision": revision, "dtype": dtype, "model_init_kwargs": model_init_kwargs}
    loss = Loss(reduction="sum", max_length=max_length, **loading)
    rows = read_rows(dataset, columns, group_by, training_pool, excluded)
    num_bytes = _response_bytes(rows, evaluated.tokenizer, max_length)
    rows.check_usable()
    usable = rows.usable
    with measure_cost() as meter:
        scored = score(
            rows.pool.dataset.select_columns(rows.pool.columns).select(usable),
            loss,
            evaluated.model,
            processing_class,
            scoring_tokens_per_batch,
            columns=columns,
        ).with_format("numpy")
    nats = np.full(len(rows.pool), np.nan)
    nats[usable] = scored[loss.column][:]
    rows.reasons[usable] = scored[f"{loss.column}_reason"][:]
    rows.check_usable()
    settings = {
        "model": evaluated.describe(),
        "score": {"version": loss.version, "over": loss.over, "max_length": max_length},
        "group_by": group_by,
        "cost": meter.cost,
    }
    return HeldoutLoss(
        row_ids=rows.pool.row_ids,
        reasons=rows.reasons.astype(np.str_),
        groups=rows.groups,
        settings=settings,
        nats=nats,
        num_bytes=np.where(rows.reasons == "", num_bytes, 0),
    )


def _response_bytes(rows: HeldoutRows, tokenizer: Any, max_length: int) -> np.ndarray:
    """Count the bytes of the responses of each row, and add the reasons of rows that are not scored as a whole."""
    num_bytes = np.zeros(len(rows.pool), dtype=np.int64)
    usable = rows.usable
    token_rows = TokenRows(rows.pool.subset(usable), tokenizer, TokenSettings(max_length=None))
    tokens = token_rows.training()
    rows.reasons[usable] = tokens.reasons
    rows.messages.update(token_rows.messages)
    sequences, owner = tokens.conditional, usable[tokens.conditional.owner]
    is_tokenized = rows.pool.format == "tokenized"
    without_end = token_rows.training(end_token=False).conditional if is_tokenized else sequences
    if is_tokenized:
        rows.reasons[np.setdiff1d(owner, usable[without_end.owner])] = "no_response_token"
        num_bytes[usable[without_end.owner]] = _decoded_bytes(without_end, tokenizer)
    for start in range(0, len(sequences), _ROWS_PER_BLOCK):
        block = np.arange(start, min(start + _ROWS_PER_BLOCK, len(sequences)))
        numbers = owner[block]
        parsed = [None] * len(block) if is_tokenized else rows.pool.rows(numbers)
        for number, sequence, row in zip(numbers, sequences.fetch(block), parsed, strict=True):
            if sequence.scored[-1] >= max_length:
                rows.reasons[number] = "truncated"
            if row is None:
                continue
            turns = [row.turns[position] for position in row.response_turns]
            num_bytes[number] = sum(len(turn.content.encode("utf-8", "surrogatepass")) for turn in turns)
            text = _comparable(tokenizer.decode(sequence.ids[sequence.scored].tolist()))
            if rows.reasons[number] == "" and not all(part in text for turn in turns for part in _parts(turn)):
                rows.reasons[number] = "response_not_rendered"
    rows.reasons[(rows.reasons == "") & (num_bytes == 0)] = "empty_response"
    return num_bytes


def _decoded_bytes(sequences: Any, tokenizer: Any) -> list[int]:
    fetched = sequences.fetch(np.arange(len(sequences)))
    ids = [sequence.ids[sequence.scored].tolist() for sequence in fetched]
    texts = (tokenizer.decode(entry, skip_special_tokens=True, clean_up_tokenization_spaces=False) for entry in ids)
    return [len(text.encode()) for text in texts]


def _parts(turn: Turn) -> list[str]:
    """Return what of a response has to be in the rendered text, in the form of `_comparable`."""
    if turn.message is None:
        return [_comparable(turn.content)]
    texts = [turn.message.get(key) for key in ("content", *_THINKING_KEYS)]
    texts += [call["function"].get("name") for call in turn.message.get("tool_calls") or ()]
    return [_comparable(str(text)) for text in texts if text]


def _comparable(text: str) -> str:
    """Return a text without what chat templates and tokenizers may change: white space and compatibility forms."""
    return "".join(unicodedata.normalize("NFKC", text).split())
