"""Conversion of a pool into the columns that `SFTTrainer` accepts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import FormatError, reason_counts
from hf_datasel.formats.pool import POOL_ROW, Pool
from hf_datasel.formats.rows import ROLES, Row, canonical_rows

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["alpaca_prompt", "convert_pool"]

_EXTRA_COLUMNS = ("tools", "chat_template_kwargs")
"""Columns besides the format's own that change how TRL renders a row."""

_CHAT_ROLES = frozenset(ROLES.values())

_VERSION = 1
"""Version of the conversion, part of the fingerprint in the cache of `datasets`."""


def alpaca_prompt(instruction: str, instruction_input: str) -> str:
    """Return the Alpaca prompt (Taori et al. 2023) up to and including `### Response:`.

    Args:
        instruction: Instruction of the row.
        instruction_input: Input of the row; may be empty.
    """
    if instruction_input.strip():
        return (
            "Below is an instruction that describes a task, paired with an input that provides further context. "
            "Write a response that appropriately completes the request.\n\n"
            f"### Instruction:\n{instruction}\n\n### Input:\n{instruction_input}\n\n### Response:"
        )
    return (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{instruction}\n\n### Response:"
    )


def convert_pool(pool: Pool, chat_template: bool) -> Dataset:
    """Convert a pool into the columns that `SFTTrainer` accepts, with a column `pool_row`.

    Prompt-completion, messages and text rows are returned unchanged, unless a row uses other role names than chat
    templates do ("human", or plain strings in turn). Alpaca rows become a conversational prompt and completion if the
    tokenizer has a chat template, otherwise the Alpaca prompt and the output as text. ShareGPT rows become `messages`,
    and preference rows become the prompt and the chosen completion.

    Args:
        pool: The pool to convert.
        chat_template: Whether the tokenizer has a chat template.

    Returns:
        The rows that can be trained on.

    Raises:
        FormatError: No row can be trained on.
    """
    usable = np.flatnonzero(pool.reasons == "")
    if usable.size == 0:
        counts = dict(zip(*np.unique(pool.reasons, return_counts=True), strict=True))
        raise FormatError(f"None of the {len(pool):,} rows can be trained on: {reason_counts(counts)}.")
    extra_columns = [name for name in _EXTRA_COLUMNS if name in pool.dataset.column_names]
    data = pool.dataset.select_columns([*pool.columns, *extra_columns]).add_column(POOL_ROW, np.arange(len(pool)))
    if usable.size < len(pool):
        data = data.select(usable)
    write = _writer(pool.format, data, chat_template)
    if write is None:
        return data
    return data.map(
        _convert_batch,
        batched=True,
        fn_kwargs={"row_format": pool.format, "write": write, "version": _VERSION},
        remove_columns=pool.columns,
        desc=f"Converting {pool.format} rows",
    )


def _writer(row_format: str, data: Dataset, chat_template: bool) -> Callable[[Row], dict[str, Any]] | None:
    if row_format == "alpaca":
        return _chat_prompt_completion if chat_template else _alpaca_prompt_completion
    if row_format == "preference":
        return _text_prompt_completion if isinstance(data[0].get("prompt"), str) else _chat_prompt_completion
    if row_format == "sharegpt":
        return _messages
    if row_format == "messages":
        return None if _have_chat_roles(data, ["messages"]) else _messages
    if row_format == "prompt-completion" and isinstance(data[0]["prompt"], list):
        return None if _have_chat_roles(data, ["prompt", "completion"]) else _chat_prompt_completion
    return None


def _have_chat_roles(data: Dataset, columns: list[str]) -> bool:
    """Return whether all messages are dictionaries with a role name of chat templates."""
    return all(
        isinstance(turn, dict) and turn.get("role") in _CHAT_ROLES
        for batch in data.select_columns(columns).iter(batch_size=1_000)
        for name in columns
        for messages in batch[name]
        for turn in messages
    )


def _convert_batch(
    batch: Any, row_format: str, write: Callable[[Row], dict[str, Any]], version: int
) -> dict[str, list[Any]]:
    converted = [write(row) for row in canonical_rows(batch, row_format)]
    return {name: [row[name] for row in converted] for name in converted[0]}


def _chat(row: Row, start: int, stop: int | None) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in row.turns[start:stop]]


def _messages(row: Row) -> dict[str, Any]:
    return {"messages": _chat(row, 0, None)}


def _chat_prompt_completion(row: Row) -> dict[str, Any]:
    return {"prompt": _chat(row, 0, row.context), "completion": _chat(row, row.context, None)}


def _text_prompt_completion(row: Row) -> dict[str, Any]:
    return {"prompt": row.prompt, "completion": row.response}


def _alpaca_prompt_completion(row: Row) -> dict[str, Any]:
    return {"prompt": f"{alpaca_prompt(row.instruction, row.input)}\n", "completion": row.response}
