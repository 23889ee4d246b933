"""Tokenization of `SFTTrainer` outside a trainer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from hf_datasel._lazy import pc
from hf_datasel.errors import ModelError
from hf_datasel.formats.convert import MESSAGE, TEXT_ROLE
from hf_datasel.tokens.row_tokenizer import RowTokenizer
from hf_datasel.tokens.valid_rows import RowRenderer, prepare_valid_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "TokenSettings",
    "check_chat_template",
    "is_conversational",
    "prepare_dataset",
    "prepare_rows",
    "text_beside_messages",
    "training_template",
]


@dataclass(frozen=True)
class TokenSettings:
    """The fields of `SFTConfig` that determine tokens and labels, with the same meaning and defaults.

    Args:
        max_length: Maximum number of tokens per row; None for no truncation.
        truncation_mode: Part of a row that truncation keeps, `"keep_start"` or `"keep_end"`.
        completion_only_loss: Whether to train on the completion only; None if the dataset has prompts and completions.
        assistant_only_loss: Whether to train on the assistant turns only.
        dataset_text_field: Name of the text column.
        dataset_num_proc: Number of processes for tokenization, as `num_proc` of `Dataset.map`.
    """

    max_length: int | None = 1024
    truncation_mode: str = "keep_start"
    completion_only_loss: bool | None = None
    assistant_only_loss: bool = False
    dataset_text_field: str = "text"
    dataset_num_proc: int | None = None

    @property
    def content(self) -> TokenSettings:
        """The settings without the number of processes, which does not change tokens and labels."""
        return replace(self, dataset_num_proc=None)

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
    template = training_template(tokenizer, settings)
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


def training_template(tokenizer: PreTrainedTokenizerBase, settings: TokenSettings) -> str | None:
    """Return the chat template that `SFTTrainer` uses if the tokenizer's own lacks the generation markers it needs.

    Args:
        tokenizer: Tokenizer of the rows.
        settings: Settings of the training run.

    Returns:
        The template of TRL; None for the tokenizer's own.
    """
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if not settings.assistant_only_loss or has_generation_markers(tokenizer.chat_template or ""):
        return None
    template: str | None = get_training_chat_template(tokenizer)
    return template
