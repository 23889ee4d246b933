"""Tokenization of `SFTTrainer` outside a trainer, and the positions of the responses in the tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from hf_datasel._lazy import pc
from hf_datasel.errors import ModelError, ScoreError
from hf_datasel.formats import POOL_ROW
from hf_datasel.formats.convert import MESSAGE, TEXT_ROLE
from hf_datasel.tokens.row_tokenizer import RowTokenizer, is_text_row, row_messages, row_texts
from hf_datasel.tokens.tool_calls import has_text
from hf_datasel.tokens.turns import Conversation, Span, common_prefix
from hf_datasel.tokens.valid_rows import RowRenderer, prepare_valid_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["PreparedDataset", "PriorContext", "TokenSettings", "add_response_spans", "prepare_dataset", "prior_prefix"]

PriorContext = Literal["generation-prompt", "bos", "none"]

_SPANS_VERSION = 4
"""Version of `add_response_spans`, part of the fingerprint in the cache of `datasets`."""


@dataclass(frozen=True)
class TokenSettings:
    """The fields of `SFTConfig` that determine tokens and labels, with the same meaning and defaults.

    Args:
        max_length: Maximum number of tokens per row; None for no truncation.
        truncation_mode: Part of a row that truncation keeps, `"keep_start"` or `"keep_end"`.
        completion_only_loss: Whether to train on the completion only; None if the dataset has prompts and completions.
        assistant_only_loss: Whether to train on the assistant turns only.
        dataset_text_field: Name of the text column.
        dataset_num_proc: Number of processes for tokenization.
    """

    max_length: int | None = 1024
    truncation_mode: str = "keep_start"
    completion_only_loss: bool | None = None
    assistant_only_loss: bool = False
    dataset_text_field: str = "text"
    dataset_num_proc: int | None = None

    def resolve(self, columns: list[str]) -> TokenSettings:
        """Return settings with `completion_only_loss` determined from the columns, as in `SFTTrainer`.

        Args:
            columns: Column names of the dataset.
        """
        if self.completion_only_loss is not None:
            return self
        return replace(self, completion_only_loss="prompt" in columns and "completion" in columns)


def is_conversational(dataset: Dataset) -> bool:
    """Return whether the rows are lists of messages, which require a chat template."""
    row = dataset[0] if len(dataset) else {}
    return isinstance(row.get("messages", row.get("prompt")), list)


def text_beside_messages(dataset: Dataset) -> np.ndarray:
    """Return which rows are text beside rows of messages, bool of shape (rows,)."""
    is_text = np.zeros(len(dataset), dtype=bool)
    message = getattr(dataset.features.get("prompt"), "feature", None)
    if not isinstance(message, dict) or MESSAGE not in message:
        return is_text
    start = 0
    for table in dataset.select_columns(["prompt"]).with_format("arrow").iter(batch_size=10_000):
        prompts = table["prompt"].combine_chunks()
        roles = prompts.flatten().field("role").to_numpy(zero_copy_only=False)
        is_text[start + pc.list_parent_indices(prompts).to_numpy()[roles == TEXT_ROLE]] = True
        start += len(prompts)
    return is_text


def check_chat_template(dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise an error if the rows need a chat template, and the tokenizer has none.

    Args:
        dataset: Converted rows.
        tokenizer: The tokenizer.

    Raises:
        ModelError: All rows are lists of messages, and there is no chat template.
    """
    if not is_conversational(dataset) or tokenizer.chat_template is not None:
        return
    if not text_beside_messages(dataset).any():
        raise ModelError(
            f"The rows are conversations, and the tokenizer of {tokenizer.name_or_path!r} has no chat template. "
            "Use the tokenizer of an instruction-tuned model, set tokenizer.chat_template (chat_template_path in "
            "SFTConfig), or convert the rows into text columns prompt and completion."
        )


def prepare_dataset(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, settings: TokenSettings) -> Dataset:
    """Tokenize converted rows as `SFTTrainer` does; see `prepare_rows`.

    Args:
        dataset: Rows as returned by `hf_datasel.formats.convert_pool`.
        tokenizer: Tokenizer, with a chat template if the rows are conversational.
        settings: Settings of the training run.

    Returns:
        The dataset with `input_ids` and `labels`, without the rows that have no label after truncation and those that
        cannot be rendered or tokenized.
    """
    return prepare_rows(dataset, tokenizer, settings)[0]


def prepare_rows(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, settings: TokenSettings, allow_none: bool = False
) -> tuple[Dataset, dict[int, str]]:
    """Tokenize converted rows with `SFTTrainer._prepare_dataset`, called on a stand-in for the trainer.

    Args:
        dataset: Rows as returned by `hf_datasel.formats.convert_pool`.
        tokenizer: Tokenizer, with a chat template if the rows are conversational.
        settings: Settings of the training run.
        allow_none: Whether to return no rows, instead of raising an error, if none can be rendered and tokenized.

    Returns:
        The dataset with `input_ids` and `labels`, without the rows that have no label after truncation; and the errors
        of the rows that cannot be rendered or tokenized, by `pool_row`.

    Raises:
        ModelError: The rows are conversational, and the tokenizer has no chat template; or it renders none of them,
            unless `allow_none`.
    """
    from trl import SFTTrainer

    check_chat_template(dataset, tokenizer)
    settings = settings.resolve(dataset.column_names)
    template = _training_template(tokenizer, settings)
    trainer = SimpleNamespace(
        _tokenizer=tokenizer,
        processing_class=tokenizer,
        chat_template=template,
        completion_only_loss=settings.completion_only_loss,
        _is_vlm=False,
        _is_vision_dataset=False,
    )
    args = SimpleNamespace(
        dataset_num_proc=settings.dataset_num_proc,
        dataset_text_field=settings.dataset_text_field,
        assistant_only_loss=settings.assistant_only_loss,
        max_length=settings.max_length,
        truncation_mode=settings.truncation_mode,
        shuffle_dataset=False,
        completion_only_loss=settings.completion_only_loss,
        eos_token=None,
        use_liger_kernel=False,
    )

    def prepare(rows: Dataset, truncate: bool) -> Dataset:
        whole = SimpleNamespace(**{**vars(args), "max_length": None})
        options = (RowTokenizer(tokenizer), args if truncate else whole, False, None, "pool")
        return SFTTrainer._prepare_dataset(trainer, rows, *options)

    if "input_ids" in dataset.column_names:
        return prepare(dataset, True), {}
    return prepare_valid_rows(dataset, prepare, RowRenderer(tokenizer, settings, template), allow_none)


def _training_template(tokenizer: PreTrainedTokenizerBase, settings: TokenSettings) -> str | None:
    """Return the chat template that `SFTTrainer` uses if the tokenizer's own lacks the generation markers it needs."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if not settings.assistant_only_loss or has_generation_markers(tokenizer.chat_template or ""):
        return None
    template: str | None = get_training_chat_template(tokenizer)
    return template


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
        prompt = list(_generation_prompt(self.tokenizer, "Hello"))
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
            "settings": settings.resolve(prepared.column_names),
            "template": _training_template(tokenizer, settings),
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


def prior_prefix(tokenizer: PreTrainedTokenizerBase, chat: bool, context: PriorContext) -> np.ndarray:
    """Return the token ids before a response when it is scored without its instruction.

    Args:
        tokenizer: Tokenizer of the model that scores.
        chat: Whether the rows are conversational.
        context: `"generation-prompt"` is BOS (or EOS if there is none) and the generation prompt of the chat template,
            which begins with BOS itself in some templates; `"bos"` is BOS (or EOS) alone; `"none"` is no token, so
            that the first response token is not scored, with or without the instruction.

    Returns:
        Token ids, int64.

    Raises:
        ScoreError: The tokenizer has neither BOS nor EOS, or its chat template has no fixed generation prompt.
    """
    if context == "none":
        return np.empty(0, dtype=np.int64)
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise ScoreError(
            f"The tokenizer of {tokenizer.name_or_path!r} has neither a BOS nor an EOS token to put before the "
            "response. Pass prior_context='none' to exclude the first token of the response from both terms."
        )
    if context == "bos" or not chat:
        return np.array([first], dtype=np.int64)
    prompts = {_generation_prompt(tokenizer, question) for question in ("Hello", "Is it slow?")}
    if len(prompts) > 1:
        raise ScoreError(
            f"The chat template of {tokenizer.name_or_path!r} renders a question differently with a generation "
            "prompt, so that the generation prompt cannot be determined. Pass prior_context='bos'."
        )
    prompt = prompts.pop()
    # conversations of some templates begin with the header of a message, whose first token is BOS (SmolLM2)
    return np.array(prompt if prompt[:1] == (first,) else (first, *prompt), dtype=np.int64)


def _generation_prompt(tokenizer: PreTrainedTokenizerBase, question: str) -> tuple[int, ...]:
    """Return the generation prompt that the chat template adds after a question."""
    messages = [{"role": "user", "content": question}]
    without_prompt = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    with_prompt = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    return tuple(with_prompt["input_ids"][common_prefix(without_prompt, with_prompt["input_ids"]) :])
