"""Rows of a pool with their tokens, under the convention that a score requires."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import FormatError
from hf_datasel.formats import Pool, convert_pool
from hf_datasel.tokens.presets import preset_tokens
from hf_datasel.tokens.prior import PriorContext, prior_prefix
from hf_datasel.tokens.processes import main_process_first
from hf_datasel.tokens.responses import PreparedDataset
from hf_datasel.tokens.sequences import Sequences, list_column
from hf_datasel.tokens.tool_calls import conversion_options, unrendered_message
from hf_datasel.tokens.training import TokenSettings, prepare_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenRows", "Tokens"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokens:
    """Token sequences of some rows under one convention.

    Args:
        conditional: Sequences of the responses given their instructions, as in training.
        prior: Sequences of the responses without their instructions.
        reasons: Reason why a row has no sequence, strings of shape (rows,); empty for rows with a sequence.
    """

    conditional: Sequences
    prior: Sequences
    reasons: np.ndarray


class TokenRows:
    """Rows of a pool with their tokens, the input of `Score.compute`.

    Args:
        pool: The pool.
        tokenizer: Tokenizer of the model that scores.
        settings: How training truncates and labels rows.
        prepared: Rows tokenized by the trainer; tokenized on first use by default.
        indices: Pool rows to score, in this order; all rows by default. Without `prepared`, the attributes `pool` and
            `indices` refer to these rows only.
        collective: Whether all processes of a launcher tokenize these rows, so that the main process does it first and
            the others read its result; see `hf_datasel.tokens.processes`.

    Attributes:
        messages: What the first row with a reason shows about it, such as the error of the chat template, by reason.
    """

    def __init__(
        self,
        pool: Pool,
        tokenizer: PreTrainedTokenizerBase | None,
        settings: TokenSettings | None = None,
        prepared: PreparedDataset | None = None,
        indices: np.ndarray | None = None,
        collective: bool = False,
    ):
        if prepared is None and indices is not None:
            pool, indices = pool.subset(indices), None
        self.pool = pool
        self.tokenizer: Any = tokenizer
        self.settings = settings or TokenSettings()
        self.indices = np.arange(len(pool)) if indices is None else np.asarray(indices, dtype=np.int64)
        self.collective = collective
        self._passed = prepared
        self.messages: dict[str, str] = {}
        self._tokens: dict[tuple[str, ...], Tokens] = {}

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def _prepared(self) -> PreparedDataset:
        if self._passed is not None:
            return self._passed
        options = conversion_options(self.tokenizer)
        with self.main_process_first():
            rows = convert_pool(self.pool, **options, num_proc=self.settings.dataset_num_proc)
            tokens, errors = prepare_rows(rows, self.tokenizer, self.settings, allow_none=True)
        return PreparedDataset(tokens, self.tokenizer, self.settings, errors)

    @property
    def prepared(self) -> Dataset:
        """Dataset with `input_ids`, `labels` and `pool_row` of the rows that can be trained on."""
        return self._prepared.data

    def all_tokenized(self) -> TokenRows | None:
        """Return all rows that the trainer has tokenized; None outside a trainer."""
        if self._passed is None:
            return None
        return TokenRows(self.pool, self.tokenizer, self.settings, self._passed, collective=self.collective)

    def main_process_first(self) -> AbstractContextManager[None]:
        """Return a context in which the main process maps these rows first, if all processes map them."""
        return main_process_first(self.pool.dataset) if self.collective else nullcontext()

    @property
    def generation_prompts(self) -> float:
        """See `PreparedDataset.generation_prompts`, for rows that were tokenized before."""
        return self._prepared.generation_prompts

    def training(self, prior_context: PriorContext = "generation-prompt", end_token: bool = True) -> Tokens:
        """Return the tokens of `SFTTrainer`, and the same response tokens after the context of the prior.

        Args:
            prior_context: Context of the prior, see `hf_datasel.tokens.prior.prior_prefix`.
            end_token: Whether to score the tokens that end a response.

        Raises:
            FormatError: The rows have only a text column.
        """
        key = ("sft", prior_context, str(end_token))
        if key not in self._tokens:
            self._tokens[key] = self._training(prior_context, end_token)
        return self._tokens[key]

    def _training(self, prior_context: PriorContext, end_token: bool) -> Tokens:
        if self.pool.format == "text":
            raise FormatError(
                "Rows with only a text column have no response to score. Split the text into prompt and completion "
                "columns."
            )
        reasons = self.pool.reasons[self.indices].astype(object)
        if not (reasons == "").any():
            return _empty_tokens(reasons)
        prepared = self._prepared
        position = np.full(len(self.pool), -1, dtype=np.int64)
        position[self.indices] = np.arange(len(self))
        selected = np.flatnonzero(position[prepared.rows] >= 0)
        owner = position[prepared.rows[selected]]
        missing = np.ones(len(self), dtype=bool)
        missing[owner] = False
        for row, message in prepared.errors.items():
            if position[row] >= 0:
                reasons[position[row]] = "template_error"
                self.messages.setdefault("template_error", message)
        reasons[missing & (reasons == "")] = "prompt_fills_window"
        if selected.size == 0:
            return _empty_tokens(reasons)
        chat = prepared.conversational and self.tokenizer.chat_template is not None
        if self.pool.format == "tokenized" and prior_context == "generation-prompt":
            chat = prepared.generation_prompts == 1.0
        prefix = prior_prefix(self.tokenizer, chat, prior_context)
        skip = prefix.size == 0
        with self.main_process_first():
            data = prepared.with_spans(end_token).select(selected)
        with_span = _scorable(data, skip)
        span_reasons = np.array(data["reason"][:], dtype=object)
        reasons[owner] = np.where((span_reasons == "") & ~with_span, "no_response_token", span_reasons)
        self._explain(span_reasons, np.array(data["detail"][:], dtype=object))
        is_text = prepared.text_rows[selected][with_span]
        data, owner = data.select(np.flatnonzero(with_span)), owner[with_span]
        return Tokens(
            Sequences(data, owner, skip_first=skip),
            Sequences(data, owner, skip_first=skip, prefix=prefix, without_prompt=is_text),
            reasons.astype(np.str_),
        )

    def _explain(self, reasons: np.ndarray, details: np.ndarray) -> None:
        """Note why responses were not found, and warn about tool calls that the chat template does not render."""
        template = f"the chat template of {self.tokenizer.name_or_path!r}"
        if "response_not_found" in reasons:
            self.messages.setdefault("response_not_found", f"{template} renders these turns in no recognizable place")
        if "template_error" in reasons:
            self.messages.setdefault("template_error", unrendered_message(self.tokenizer))
        unrendered = int(((details == "tool_calls") & (reasons != "template_error")).sum())
        if unrendered:
            _warn_once(f"{unrendered:,} rows have tool calls that {template} does not render; they are not scored.")

    def preset(self, convention: str, max_length: int | None) -> Tokens:
        """Return the tokens of a published convention, see `hf_datasel.tokens.presets.PRESETS`.

        Args:
            convention: Name of the convention.
            max_length: Maximum number of tokens; None for no truncation.
        """
        key = (convention, str(max_length))
        if key not in self._tokens:
            pool = self.pool if self._passed is None else self.pool.subset(self.indices)
            num_proc = self.settings.dataset_num_proc
            with self.main_process_first():
                data = preset_tokens(pool, self.tokenizer, convention, max_length, num_proc)
            reasons = np.array(data["reason"][:], dtype=np.str_)
            if "template_error" in reasons:
                self.messages.setdefault("template_error", next(filter(None, data["error"])))
            owner = np.flatnonzero(reasons == "")
            data = data.select(owner)
            prior = Sequences(data, owner, ids="prior_ids", spans="prior_spans")
            self._tokens[key] = Tokens(Sequences(data, owner), prior, reasons)
        return self._tokens[key]


@lru_cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _scorable(data: Dataset, skip_first: bool) -> np.ndarray:
    """Return whether each row has a span with a token to score."""
    view = data.select_columns(["spans"]).with_format("arrow")
    flags = [
        np.array([(np.diff(row.reshape(-1, 2)) > skip_first).any() for row in list_column(table, "spans")])
        for table in view.iter(batch_size=10_000)
    ]
    return np.concatenate([np.empty(0, dtype=bool), *flags])


def _empty_tokens(reasons: np.ndarray) -> Tokens:
    from datasets import Dataset

    empty = Sequences(Dataset.from_dict({"input_ids": [], "spans": []}), np.empty(0, dtype=np.int64))
    return Tokens(empty, empty, reasons.astype(np.str_))
