"""Positions of the responses in tokenized rows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hf_datasel.formats import POOL_ROW
from hf_datasel.tokens.prior import generation_prompt
from hf_datasel.tokens.row_tokenizer import is_text_row, row_messages, row_texts
from hf_datasel.tokens.tool_calls import has_text
from hf_datasel.tokens.training import TokenSettings, is_conversational, text_beside_messages, training_template
from hf_datasel.tokens.turns import Conversation, Span, common_prefix

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["PreparedDataset", "add_response_spans"]

_SPANS_VERSION = 4
"""Version of `add_response_spans`, part of the fingerprint in the cache of `datasets`."""


class PreparedDataset:
    """Tokenized rows of a pool, with a cache of the positions of their responses.

    Args:
        data: Dataset as returned by `prepare_dataset` or prepared by the trainer, with `pool_row` and the text
            columns.
        tokenizer: Tokenizer of the rows.
        settings: Settings with which the rows were tokenized.
        errors: Errors of the rows of the pool that cannot be rendered or tokenized, by row number.

    Attributes:
        rows: Pool row number of each row, int64.
        conversational: Whether the rows are lists of messages, but for `text_rows`.
        text_rows: Which rows are text beside rows of messages, bool of shape (rows,).
    """

    def __init__(
        self,
        data: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        settings: TokenSettings,
        errors: Mapping[int, str] | None = None,
    ):
        self.errors = dict(errors or {})
        self.data = data
        self.tokenizer = tokenizer
        self.settings = settings
        self.rows = np.asarray(data.with_format("numpy")[POOL_ROW][:], dtype=np.int64)
        self.conversational = is_conversational(data)
        self.text_rows = text_beside_messages(data)
        self._with_spans: dict[bool, Dataset] = {}

    @cached_property
    def generation_prompts(self) -> float:
        """Share of the tokenized rows whose labels begin right after the generation prompt of the chat template.

        Rows whose first token has a label do not count. 0 without a chat template.
        """
        if self.tokenizer.chat_template is None:
            return 0.0
        prompt = list(generation_prompt(self.tokenizer, "Hello"))
        matches = []
        for row in self.with_spans(True).select_columns(["input_ids", "spans"]):
            start = row["spans"][0] if row["spans"] else 0
            if start:
                matches.append(row["input_ids"][max(start - len(prompt), 0) : start] == prompt)
        return float(np.mean(matches)) if prompt and matches else 0.0

    def with_spans(self, end_token: bool) -> Dataset:
        """Return `pool_row`, `input_ids`, `spans`, `reason` and `detail` of each row; see `add_response_spans`.

        Args:
            end_token: Whether the spans include the tokens that end a response.
        """
        if end_token not in self._with_spans:
            self._with_spans[end_token] = add_response_spans(self.data, self.tokenizer, self.settings, end_token)
        return self._with_spans[end_token]


def add_response_spans(
    prepared: Dataset, tokenizer: PreTrainedTokenizerBase, settings: TokenSettings, end_token: bool = True
) -> Dataset:
    """Add the positions of the response tokens of each row.

    Args:
        prepared: Dataset as returned by `prepare_dataset` or prepared by the trainer, with the text columns.
        tokenizer: Tokenizer of the rows.
        settings: Settings with which the rows were tokenized.
        end_token: Whether to include the tokens that end a response (EOS, end of turn), which are trained on too.

    Returns:
        Dataset with `pool_row`, `input_ids`, `spans`, flattened as (start, stop, start, stop, ...), `reason` and
        `detail`. A row without spans has a reason: its response was truncated, or cannot be located. `detail` is
        `"tool_calls"` where the chat template does not render tool calls of the row.
    """
    from datasets import Features, List, Value

    return prepared.map(
        _spans_of,
        fn_kwargs={
            "tokenizer": tokenizer,
            "settings": settings.resolve(prepared.column_names).content,
            "template": training_template(tokenizer, settings),
            "special": None if end_token else _special_ids(tokenizer),
            "version": _SPANS_VERSION,
        },
        remove_columns=[name for name in prepared.column_names if name not in (POOL_ROW, "input_ids")],
        features=Features(  # explicit, since the first thousand rows may all have no spans
            {
                **{name: prepared.features[name] for name in (POOL_ROW, "input_ids")},
                "spans": List(Value("int32")),
                "reason": Value("string"),
                "detail": Value("string"),
            }
        ),
        num_proc=settings.dataset_num_proc,
        desc="Locating the responses",
    )


def _spans_of(
    row: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    settings: TokenSettings,
    template: str | None,
    special: list[int] | None,
    version: int,
) -> dict[str, Any]:
    ids = row["input_ids"]
    response = _response_spans(row, tokenizer, settings, template)
    spans, detail = response.spans, "tool_calls" if response.unrendered else ""
    shift = len(response.ids) - len(ids) if settings.truncation_mode == "keep_end" else 0
    if spans is None or response.ids[shift : shift + len(ids)] != ids:  # the trainer rendered the row differently
        return {"spans": [], "reason": "response_not_found", "detail": ""}
    if response.lost:
        return {"spans": [], "reason": "template_error", "detail": detail}
    spans = _after_truncation(spans, shift, len(ids))
    if not spans:
        return {"spans": [], "reason": "prompt_fills_window", "detail": detail}
    if special is not None:
        spans = [(start, _without_end(ids, start, stop, special, tokenizer)) for start, stop in spans]
    # The first token of a sequence has no context and is not scored.
    flat = [position for start, stop in spans if stop > max(start, 1) for position in (start, stop)]
    return {"spans": flat, "reason": "" if flat else "no_response_token", "detail": detail}


class _Response(NamedTuple):
    """The responses of a row before truncation.

    Args:
        ids: Token ids of the row.
        spans: Start and stop of each response; None if they cannot be located.
        unrendered: Whether the chat template renders none of the tool calls of a response.
        lost: Whether such a response consists of nothing but tool calls.
    """

    ids: list[int]
    spans: list[Span] | None
    unrendered: bool = False
    lost: bool = False


def _response_spans(
    row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, settings: TokenSettings, template: str | None
) -> _Response:
    """Return the response spans of a row, from its labels if possible."""
    ids, labels = row["input_ids"], row["labels"]
    if "messages" not in row and "prompt" not in row:  # tokenized before
        return _Response(ids, _label_spans(labels))
    if is_text_row(row):
        if settings.completion_only_loss and not settings.assistant_only_loss:
            return _Response(ids, [(_first_label(labels), len(ids))])
        prompt, completion = row_texts(row, tokenizer)
        full = tokenizer(text=prompt + completion)["input_ids"]
        return _Response(full, [(common_prefix(tokenizer(text=prompt)["input_ids"], full), len(full))])
    messages, context = row_messages(row)
    has_calls = any(message.get("tool_calls") for message in messages[context:])
    is_single = (
        "messages" not in row
        and len(messages) == context + 1
        and settings.completion_only_loss
        and not settings.assistant_only_loss
    )
    if is_single and not has_calls:
        return _Response(ids, [(_first_label(labels), len(ids))])
    conversation = Conversation(tokenizer, row, template)
    turns = {conversation.context: [(_first_label(labels), len(ids))]} if is_single else conversation.turn_spans()
    unrendered = conversation.unrendered_calls(turns) if turns and has_calls else set()
    if turns is None:
        return _Response(conversation.ids, None)
    untrained = set(row.get("untrained_turns") or ())
    lost = any(not has_text(conversation.messages[index]) for index in unrendered - untrained)
    spans = [span for index, spans in turns.items() if index not in untrained for span in spans]
    return _Response(ids if is_single else conversation.ids, spans, bool(unrendered), lost)


def _label_spans(labels: list[int]) -> list[Span]:
    """Return start and stop of each run of tokens with a label."""
    has_label = np.concatenate([[False], np.asarray(labels) != -100, [False]])
    edges = np.flatnonzero(np.diff(has_label.astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _first_label(labels: list[int]) -> int:
    return next((index for index, label in enumerate(labels) if label != -100), len(labels))


def _after_truncation(spans: list[Span], shift: int, length: int) -> list[Span]:
    clipped = [(max(start - shift, 0), min(stop - shift, length)) for start, stop in spans]
    return [(start, stop) for start, stop in clipped if stop > start]


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    added_ids = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted(added_ids | set(tokenizer.all_special_ids))


def _without_end(ids: list[int], start: int, stop: int, special: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the position of the last special token, if only white space follows it; otherwise `stop`."""
    for index in range(stop - 1, max(start, stop - 4) - 1, -1):
        if ids[index] in special:
            return index
        if tokenizer.decode(ids[index : index + 1]).strip():
            return stop
    return stop
