"""The tokens that `SFTTrainer` trains on, made outside a trainer, and where in them the responses are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_datasel.errors import ModelError, ScoreError
from hf_datasel.formats import POOL_ROW
from hf_datasel.tokens.turns import Conversation, common_prefix

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["Prepared", "PriorContext", "TokenSettings", "mark_responses", "prepare", "prior_prefix"]

PriorContext = Literal["generation-prompt", "bos", "none"]

_MARK_VERSION = 1
"""Raised when `mark_responses` starts giving other spans, so that no cached ones are taken for them."""


@dataclass(frozen=True)
class TokenSettings:
    """The fields of `SFTConfig` that decide a row's tokens and labels, with the same meaning and defaults."""

    max_length: int | None = 1024
    truncation_mode: str = "keep_start"
    completion_only_loss: bool | None = None
    assistant_only_loss: bool = False
    dataset_text_field: str = "text"
    dataset_num_proc: int | None = None

    def resolve(self, columns: list[str]) -> TokenSettings:
        """With `completion_only_loss` decided from the columns, as `SFTTrainer` decides it."""
        if self.completion_only_loss is not None:
            return self
        return replace(self, completion_only_loss="prompt" in columns and "completion" in columns)


def is_conversational(dataset: Dataset) -> bool:
    """Whether the rows are lists of messages, so that a chat template is needed."""
    row = dataset[0] if len(dataset) else {}
    return isinstance(row.get("messages", row.get("prompt")), list)


def prepare(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, settings: TokenSettings) -> Dataset:
    """Tokenise converted rows with `SFTTrainer._prepare_dataset` itself, run on a stand-in for the trainer.

    Args:
        dataset: rows as `hf_datasel.formats.converted` gives them.
        tokenizer: with a chat template, if the rows are conversational.
        settings: as in the `SFTConfig` of the training run.

    Returns:
        The dataset with `input_ids` and `labels`; rows that truncation leaves without a label are gone.

    Raises:
        ModelError: conversational rows, and a tokenizer without a chat template.
    """
    from trl import SFTTrainer

    chat = is_conversational(dataset)
    if chat and tokenizer.chat_template is None:
        raise ModelError(
            f"The rows are conversations, and the tokenizer of {tokenizer.name_or_path!r} has no chat template. "
            "Take an instruction-tuned model's tokenizer, set tokenizer.chat_template (chat_template_path in "
            "SFTConfig), or turn the rows into text columns prompt and completion."
        )
    settings = settings.resolve(dataset.column_names)
    trainer = SimpleNamespace(
        _tokenizer=tokenizer,
        processing_class=tokenizer,
        chat_template=_training_template(tokenizer, settings),
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
    return SFTTrainer._prepare_dataset(trainer, dataset, tokenizer, args, False, None, "pool")


def _training_template(tokenizer: PreTrainedTokenizerBase, settings: TokenSettings) -> str | None:
    """What `SFTTrainer` renders with where the tokenizer's own template has no generation markers and needs them."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if not settings.assistant_only_loss or has_generation_markers(tokenizer.chat_template or ""):
        return None
    template: str | None = get_training_chat_template(tokenizer)
    return template


class Prepared:
    """Tokenised rows of a pool, and where their responses are, found once and kept.

    Args:
        data: as `prepare` or the trainer made it, with `pool_row` and the text columns still there.
    """

    def __init__(self, data: Dataset, tokenizer: PreTrainedTokenizerBase, settings: TokenSettings):
        self.data = data
        self.tokenizer = tokenizer
        self.settings = settings
        self.rows = np.asarray(data.with_format("numpy")[POOL_ROW][:], dtype=np.int64)
        """The pool row number of each, int64."""
        self.conversational = is_conversational(data)
        self._marked: dict[bool, Dataset] = {}

    def marked(self, end_token: bool) -> Dataset:
        """`pool_row`, `input_ids` and `spans` of each row; see `mark_responses`."""
        if end_token not in self._marked:
            self._marked[end_token] = mark_responses(self.data, self.tokenizer, self.settings, end_token)
        return self._marked[end_token]


def mark_responses(
    prepared: Dataset, tokenizer: PreTrainedTokenizerBase, settings: TokenSettings, end_token: bool = True
) -> Dataset:
    """Add `spans`: where the response tokens of each prepared row are, flattened (start, stop, start, stop, ...).

    A row without one has a `reason`: its response was cut away, or cannot be told from the rest.

    Args:
        prepared: as `prepare` or the trainer made it, with the text columns still there.
        end_token: keep the tokens that end a response (EOS, end of turn), which training sees too.
    """
    from datasets import Features, List, Value

    return prepared.map(
        _spans_of,
        fn_kwargs={
            "tokenizer": tokenizer,
            "settings": settings.resolve(prepared.column_names),
            "template": _training_template(tokenizer, settings),
            "special": None if end_token else _special_ids(tokenizer),
            "version": _MARK_VERSION,
        },
        remove_columns=[name for name in prepared.column_names if name not in (POOL_ROW, "input_ids")],
        features=Features(  # given, since the first thousand rows may all be without a span
            {
                **{name: prepared.features[name] for name in (POOL_ROW, "input_ids")},
                "spans": List(Value("int32")),
                "reason": Value("string"),
            }
        ),
        desc="Finding the responses",
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
    full, spans = _response_spans(row, tokenizer, settings, template)
    shift = len(full) - len(ids) if settings.truncation_mode == "keep_end" else 0
    if spans is None or full[shift : shift + len(ids)] != ids:  # or rendered otherwise than the trainer did
        return {"spans": [], "reason": "response_not_found"}
    spans = _after_truncation(spans, shift, len(ids))
    if not spans:
        return {"spans": [], "reason": "prompt_fills_window"}
    if special is not None:
        spans = [(start, _without_end(ids, start, stop, special, tokenizer)) for start, stop in spans]
    scored = [(start, stop) for start, stop in spans if stop > max(start, 1)]  # nothing stands before the first token
    edges = [edge for span in scored for edge in span]
    return {"spans": edges, "reason": "" if edges else "no_response_token"}


def _response_spans(
    row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, settings: TokenSettings, template: str | None
) -> tuple[list[int], list[tuple[int, int]] | None]:
    """All tokens of the row before truncation, and where the responses are; of a lone completion, the labels say."""
    ids, labels = row["input_ids"], row["labels"]
    several = isinstance(row.get("completion"), list) and len(row["completion"]) > 1
    if "completion" in row and settings.completion_only_loss and not settings.assistant_only_loss and not several:
        start = next((at for at, label in enumerate(labels) if label != -100), len(ids))
        return ids, [(start, len(ids))]
    if "messages" in row or isinstance(row.get("prompt"), list):
        conversation = Conversation(tokenizer, row, template)
        return conversation.ids, conversation.spans()
    full = tokenizer(text=row["prompt"] + row["completion"])["input_ids"]
    return full, [(common_prefix(tokenizer(text=row["prompt"])["input_ids"], full), len(full))]


def _after_truncation(spans: list[tuple[int, int]], shift: int, kept: int) -> list[tuple[int, int]]:
    clipped = [(max(start - shift, 0), min(stop - shift, kept)) for start, stop in spans]
    return [(start, stop) for start, stop in clipped if stop > start]


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted(added | set(tokenizer.all_special_ids))


def _without_end(ids: list[int], start: int, stop: int, special: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """Stop before the last special token, if nothing but white space follows it."""
    for at in range(stop - 1, max(start, stop - 4) - 1, -1):
        if ids[at] in special:
            return at
        if tokenizer.decode(ids[at : at + 1]).strip():
            return stop
    return stop


def prior_prefix(tokenizer: PreTrainedTokenizerBase, chat: bool, context: PriorContext) -> np.ndarray:
    """The tokens that stand before a response when it is scored without its instruction, int64.

    `"generation-prompt"`: BOS (else EOS), then what the chat template puts before an answer. `"bos"`: BOS (else EOS).
    `"none"`: nothing, so that the first response token is scored in neither term.

    Raises:
        ScoreError: the tokenizer has neither BOS nor EOS, or its template has no fixed generation prompt.
    """
    if context == "none":
        return np.empty(0, dtype=np.int64)
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise ScoreError(
            f"The tokenizer of {tokenizer.name_or_path!r} has neither a BOS nor an EOS token to put before the "
            "response. Pass prior_context='none' to leave its first token out of both terms."
        )
    if context == "bos" or not chat:
        return np.array([first], dtype=np.int64)
    prompts = {_generation_prompt(tokenizer, question) for question in ("Hello", "Is it slow?")}
    if len(prompts) > 1:
        raise ScoreError(
            f"The chat template of {tokenizer.name_or_path!r} renders a question differently with a generation "
            "prompt, so that the prompt cannot be told from it. Pass prior_context='bos'."
        )
    return np.array([first, *prompts.pop()], dtype=np.int64)


def _generation_prompt(tokenizer: PreTrainedTokenizerBase, question: str) -> tuple[int, ...]:
    """What the chat template puts behind a question for the model to answer."""
    messages = [{"role": "user", "content": question}]
    alone = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    asked = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    return tuple(asked["input_ids"][common_prefix(alone, asked["input_ids"]) :])
