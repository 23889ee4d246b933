"""Conversion of a pool into the columns that `SFTTrainer` accepts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import FormatError
from hf_datasel.formats.layouts import Layout, row_layout
from hf_datasel.formats.messages import ROLES, with_text_arguments
from hf_datasel.formats.pool import KEYS, KWARGS, POOL_ROW, TOOLS, UNTRAINED, Pool
from hf_datasel.formats.readers import canonical_rows
from hf_datasel.formats.rows import Row

if TYPE_CHECKING:
    from datasets import Dataset, Features

__all__ = ["alpaca_prompt", "convert_pool"]

_CHAT_ROLES = frozenset(ROLES.values())

_VERSION = 3
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


def convert_pool(pool: Pool, chat_template: bool, text_arguments: bool = False) -> Dataset:
    """Convert a pool into the columns that `SFTTrainer` accepts, with a column `pool_row`.

    Rows that are tokenized already are returned as they are, and so are prompt-completion, messages and text rows that
    have nothing but text and the roles of chat templates. Other rows are written anew, each as if it were alone:
    conversations become `messages`, or `prompt` and `completion`, with all keys of the messages; a single prompt and
    response become a conversational prompt and completion if the tokenizer has a chat template, otherwise the Alpaca
    prompt and the response as text.

    The result has the columns `tools` (null for none), `chat_template_kwargs` ({} for none) and `untrained_turns`
    (positions, among the messages of the row, of the assistant turns that loss flags exclude) where any row has them.

    Args:
        pool: The pool to convert.
        chat_template: Whether the tokenizer has a chat template.
        text_arguments: Whether the chat template needs the arguments of tool calls as JSON text, not as mappings.

    Returns:
        The rows that can be trained on.

    Raises:
        FormatError: No row can be trained on.
    """
    usable = np.flatnonzero(pool.reasons == "")
    if len(pool) == 0:
        raise FormatError("The dataset has no rows.")
    if usable.size == 0:
        raise FormatError(f"None of the {len(pool):,} rows can be trained on: {pool.reason_details()}.")
    data = pool.dataset.select_columns(pool.columns).add_column(POOL_ROW, np.arange(len(pool)))
    if usable.size < len(pool):
        data = data.select(usable)
    if pool.format == "tokenized":
        return data.rename_columns({name: key for key, name in _renamed(pool).items()})
    if _is_unchanged(pool, data):
        return data
    contents = int(np.bitwise_or.reduce(pool.contents[usable]))
    target = _target(pool, data, chat_template)
    return data.map(
        _convert_batch,
        batched=True,
        fn_kwargs={
            "row_format": pool.format,
            "columns": pool.mapping,
            "target": target,
            "contents": contents,
            "text_arguments": text_arguments and bool(contents & KEYS),
            "version": _VERSION,
        },
        remove_columns=pool.columns,
        features=_features(target, contents),
        desc=f"Converting {pool.format} rows",
    )


def _renamed(pool: Pool) -> dict[str, str]:
    columns = {**pool.layout.fields, **pool.layout.optional}
    return {key: name for key, name in columns.items() if key != name}


def _is_unchanged(pool: Pool, data: Dataset) -> bool:
    """Return whether the rows are as `SFTTrainer` accepts them."""
    layout = pool.layout
    if layout.optional or any(name != key for key, name in layout.fields.items()):
        return False
    names = list(layout.fields)
    if pool.format == "text":
        return True
    if pool.format not in ("prompt-completion", "messages"):
        return False
    if all(_is_text(data.features[name]) for name in names):
        return pool.format == "prompt-completion"
    return all(_is_plain_chat(data, name) for name in names)


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _is_plain_chat(data: Dataset, name: str) -> bool:
    """Return whether all messages of a column have only a content and a role of chat templates."""
    message = getattr(data.features[name], "feature", None)
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        return False
    if not all(_is_text(feature) for feature in message.values()):
        return False
    roles = set[str | None]()
    for table in data.select_columns([name]).with_format("arrow").iter(batch_size=10_000):
        for chunk in table.column(name).chunks:
            roles |= set(chunk.flatten().field("role").unique().to_pylist())
    return roles <= _CHAT_ROLES


def _target(pool: Pool, data: Dataset, chat_template: bool) -> str:
    """Return the columns to write: "messages", "chat" (prompt and completion) or "text" (prompt and completion)."""
    if "messages" in pool.layout.fields:
        return "messages"
    if pool.format == "text":
        return "plain"
    columns = [name for key, name in pool.layout.fields.items() if key != "rejected"]
    if not all(_is_text(data.features[name]) for name in columns) and _holds_lists(data, columns):
        return "chat"
    as_text = pool.layout.fields.keys() & {"prompt"}
    return "text" if as_text or not chat_template else "chat"


def _holds_lists(data: Dataset, columns: list[str]) -> bool:
    """Return whether a row holds messages; a column can hold texts and messages."""
    return any(
        isinstance(value, list | dict)
        for batch in data.select_columns(columns).iter(batch_size=1_000)
        for values in batch.values()
        for value in values
    )


def _features(target: str, contents: int) -> Features:
    from datasets import Features, Json, List, Value

    text = Value("string")
    chat: Any = Json() if contents & KEYS else List({"role": text, "content": text})
    features: dict[str, Any] = {POOL_ROW: Value("int64")}
    names = {"messages": ["messages"], "plain": ["text"]}.get(target, ["prompt", "completion"])
    features |= {name: chat if target in ("messages", "chat") else text for name in names}
    for content, name in ((TOOLS, "tools"), (KWARGS, "chat_template_kwargs")):
        if contents & content:
            features[name] = Json()
    if contents & UNTRAINED:
        features["untrained_turns"] = List(Value("int64"))
    return Features(features)


def _convert_batch(
    batch: Any,
    row_format: str,
    columns: dict[str, str] | None,
    target: str,
    contents: int,
    text_arguments: bool,
    version: int,
) -> dict[str, list[Any]]:
    rows = canonical_rows({name: values for name, values in batch.items() if name != POOL_ROW}, row_format, columns)
    if target == "text":
        converted = _text_pairs(rows, row_layout(list(batch), columns, row_format), batch)
    else:
        write = {"messages": _messages, "chat": _chat_pair, "plain": _plain}[target]
        converted = [write(row) for row in rows]
    result: dict[str, list[Any]] = {POOL_ROW: list(batch[POOL_ROW])}
    result |= {name: [values[name] for values in converted] for name in converted[0]}
    if contents & KEYS and target in ("messages", "chat"):
        for name in converted[0]:
            if text_arguments:
                result[name] = [with_text_arguments(messages) for messages in result[name]]
            result[name] = [_json(messages) for messages in result[name]]
    if contents & TOOLS:
        result["tools"] = [None if row.tools is None else _json(row.tools) for row in rows]
    if contents & KWARGS:
        result["chat_template_kwargs"] = [_json(row.chat_template_kwargs or {}) for row in rows]
    if contents & UNTRAINED:
        result["untrained_turns"] = [
            [position for position, turn in enumerate(row.turns) if not turn.trained] for row in rows
        ]
    return result


def _json(value: Any) -> str:
    """Return the JSON text of a value for a `Json` column, which would write numbers with ten decimals."""
    return json.dumps(value, ensure_ascii=False)


def _messages(row: Row) -> dict[str, Any]:
    return {"messages": row.messages}


def _chat_pair(row: Row) -> dict[str, Any]:
    messages = row.messages
    return {"prompt": messages[: row.context], "completion": messages[row.context :]}


def _text_pairs(rows: list[Row], layout: Layout, batch: Any) -> list[dict[str, Any]]:
    """Return prompt and completion as text: what the row has, or the Alpaca prompt if the columns ask for one."""
    if "prompt" in layout.fields:
        return [{"prompt": _joined(row, row.turns[-2].content), "completion": row.response} for row in rows]
    if "rejected" not in layout.fields:
        prompts = [_joined(row, f"{alpaca_prompt(row.instruction, row.input)}\n") for row in rows]
        return [{"prompt": prompt, "completion": row.response} for prompt, row in zip(prompts, rows, strict=True)]
    texts = batch[layout.fields["chosen"]]
    return [
        _dialogue(row) if text.lstrip().startswith("Human:") else _continued(row)
        for row, text in zip(rows, texts, strict=True)
    ]


def _joined(row: Row, prompt: str) -> str:
    return "\n\n".join([*(turn.content for turn in row.turns[:-2]), prompt])


def _dialogue(row: Row) -> dict[str, Any]:
    speakers = {"user": "Human", "assistant": "Assistant"}
    before = [f"\n\n{speakers.get(turn.role, turn.role)}: {turn.content}" for turn in row.turns[: row.context]]
    return {"prompt": "".join([*before, "\n\nAssistant:"]), "completion": f" {row.response}"}


def _continued(row: Row) -> dict[str, Any]:
    return {"prompt": _joined(row, row.turns[-2].content), "completion": f" {row.response}"}


def _plain(row: Row) -> dict[str, Any]:
    return {"text": row.turns[0].content}
