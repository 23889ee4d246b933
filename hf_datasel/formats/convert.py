"""Turn a pool into columns that `SFTTrainer` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import FormatError, reason_counts
from hf_datasel.formats.pool import POOL_ROW, Pool
from hf_datasel.formats.rows import ROLES, Row, canonical_rows

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["alpaca_prompt", "converted"]

_KEPT = ("tools", "chat_template_kwargs")
"""Columns that change how TRL renders a row, and so travel with it."""

_CHAT_ROLES = frozenset(ROLES.values())

_VERSION = 1
"""Raised when conversion changes, so that no cached rows are taken for new ones."""


def alpaca_prompt(instruction: str, input: str) -> str:
    """The Alpaca prompt (Taori et al. 2023) up to and including `### Response:`."""
    if input.strip():
        return (
            "Below is an instruction that describes a task, paired with an input that provides further context. "
            "Write a response that appropriately completes the request.\n\n"
            f"### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
        )
    return (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{instruction}\n\n### Response:"
    )


def converted(pool: Pool, chat_template: bool) -> Dataset:
    """The rows of the pool that can be trained on, in columns that `SFTTrainer` takes, with their `pool_row`.

    Prompt-completion, messages and text rows pass through unchanged, unless one of them names the roles in another way
    than chat templates do ("human", plain strings in turn). Alpaca rows become a conversational prompt and
    completion where the tokenizer has a chat template, else the Alpaca prompt and the output as text. ShareGPT rows
    become `messages`, preference rows the prompt and the chosen completion.

    Raises:
        FormatError: no row can be trained on.
    """
    usable = np.flatnonzero(pool.reasons == "")
    if usable.size == 0:
        counts = dict(zip(*np.unique(pool.reasons, return_counts=True), strict=True))
        raise FormatError(f"None of the {len(pool):,} rows can be trained on: {reason_counts(counts)}.")
    kept = [name for name in _KEPT if name in pool.dataset.column_names]
    data = pool.dataset.select_columns([*pool.columns, *kept]).add_column(POOL_ROW, np.arange(len(pool)))
    if usable.size < len(pool):
        data = data.select(usable)
    write = _writer(pool.format, data, chat_template)
    if write is None:
        return data
    return data.map(
        _convert_batch,
        batched=True,
        fn_kwargs={"format": pool.format, "write": write, "version": _VERSION},
        remove_columns=pool.columns,
        desc=f"Converting {pool.format} rows",
    )


def _writer(format: str, data: Dataset, chat_template: bool) -> Callable[[Row], dict[str, Any]] | None:
    if format == "alpaca":
        return _chat_prompt_completion if chat_template else _alpaca_prompt_completion
    if format == "preference":
        return _text_prompt_completion if isinstance(data[0].get("prompt"), str) else _chat_prompt_completion
    if format == "sharegpt":
        return _messages
    if format == "messages":
        return None if _have_chat_roles(data, ["messages"]) else _messages
    if format == "prompt-completion" and isinstance(data[0]["prompt"], list):
        return None if _have_chat_roles(data, ["prompt", "completion"]) else _chat_prompt_completion
    return None


def _have_chat_roles(data: Dataset, columns: list[str]) -> bool:
    """Whether all messages are as chat templates take them, and none of another convention."""
    return all(
        isinstance(turn, dict) and turn.get("role") in _CHAT_ROLES
        for batch in data.select_columns(columns).iter(batch_size=1_000)
        for name in columns
        for messages in batch[name]
        for turn in messages
    )


def _convert_batch(
    batch: Any, format: str, write: Callable[[Row], dict[str, Any]], version: int
) -> dict[str, list[Any]]:
    written = [write(row) for row in canonical_rows(batch, format)]
    return {name: [row[name] for row in written] for name in written[0]}


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
