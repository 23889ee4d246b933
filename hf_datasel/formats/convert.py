"""Conversion of a pool into the columns that `SFTTrainer` accepts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import FormatError
from hf_datasel.formats.json_values import dump_json, table_values
from hf_datasel.formats.layouts import Layout, row_layout
from hf_datasel.formats.messages import ROLES, with_text_arguments
from hf_datasel.formats.pool import POOL_ROW, Pool
from hf_datasel.formats.readers import canonical_rows
from hf_datasel.formats.row_scan import KEYS, KWARGS, TOOLS, UNTRAINED
from hf_datasel.formats.rows import Batch, Row

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features, IterableDataset

__all__ = ["JSON_KWARGS", "MESSAGE", "TEXT_ROLE", "alpaca_prompt", "convert_pool", "convert_stream"]

logger = logging.getLogger(__name__)

_CHAT_ROLES = frozenset(ROLES.values())

MESSAGE = "message"
"""Key of a converted message with all of its keys, as JSON text; null if it has nothing but a role and a content."""

JSON_KWARGS = "json_kwargs"
"""Key of converted arguments of the chat template, as JSON text."""

TEXT_ROLE = "text"
"""Role of a converted message that is a text without a chat template, beside rows of messages."""

_VERSION = 6
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


def convert_pool(
    pool: Pool, chat_template: bool, text_arguments: bool = False, num_proc: int | None = None
) -> Dataset:
    """Convert a pool into the columns that `SFTTrainer` tokenizes, with a column `pool_row`.

    Rows that are tokenized already are returned as they are, and so are prompt-completion, messages and text rows that
    have nothing but text and the roles of chat templates. Other rows are written anew, each as if it were alone:
    conversations become `messages`, or `prompt` and `completion`; a single prompt and response become a conversational
    prompt and completion if the tokenizer has a chat template, otherwise the Alpaca prompt and the response as text.

    Some rows need `hf_datasel.tokens.row_tokenizer.RowTokenizer` in place of the tokenizer, since their columns could
    not hold them exactly otherwise: messages with more keys than role and content are in a third key `message`, as
    JSON text; a row of text beside rows of messages is a message with the role `text` in each column; and
    `chat_template_kwargs` has a single key, the JSON text of the arguments.

    The result has the columns `tools` (JSON text, null for none), `chat_template_kwargs` and `untrained_turns`
    (positions, among the messages of the row, of the assistant turns that loss flags exclude) where any row has them.

    Args:
        pool: The pool to convert.
        chat_template: Whether the tokenizer has a chat template.
        text_arguments: Whether the chat template needs the arguments of tool calls as JSON text, not as mappings.
        num_proc: Number of processes, as in `Dataset.map`.

    Returns:
        The rows that can be trained on.

    Raises:
        FormatError: No row can be trained on.
    """
    usable = np.flatnonzero(pool.usable)
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
    converted = data.with_format("arrow").map(
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
        num_proc=num_proc,
        desc=f"Converting {pool.format} rows",
    )
    return converted.with_format(None)


def convert_stream(
    stream: IterableDataset,
    columns: Sequence[str],
    mapping: Mapping[str, str] | None,
    chat_template: bool,
    text_arguments: bool = False,
) -> IterableDataset:
    """Convert streaming rows as `convert_pool` does, and leave out those that cannot be used.

    Since the rows to come are unknown, the result has all columns that rows may need `RowTokenizer` for, and no column
    `pool_row`.

    Args:
        stream: Rows that are not tokenized.
        columns: Names of their columns.
        mapping: Names of columns of the supported formats, and the names that the rows have for them.
        chat_template: Whether the tokenizer has a chat template.
        text_arguments: Whether the chat template needs the arguments of tool calls as JSON text, not as mappings.

    Returns:
        The converted rows.

    Raises:
        FormatError: The columns match no supported format.
    """
    layout = row_layout(columns, mapping)
    if "messages" in layout.fields or layout.format == "text":
        target = "messages" if "messages" in layout.fields else "plain"
    else:
        target = "mixed" if "prompt" in layout.fields or not chat_template else "chat"
    contents = 0 if target == "plain" else KEYS | TOOLS | KWARGS | UNTRAINED
    features = _features(target, contents)
    del features[POOL_ROW]
    options = {"layout": layout, "mapping": mapping, "target": target, "contents": contents}
    return stream.map(
        _convert_stream_batch,
        batched=True,
        fn_kwargs={**options, "text_arguments": text_arguments},
        remove_columns=list(columns),
        features=features,
    )


def _convert_stream_batch(
    batch: Batch,
    layout: Layout,
    mapping: Mapping[str, str] | None,
    target: str,
    contents: int,
    text_arguments: bool,
) -> dict[str, list[Any]]:
    read = {name: batch[name] for name in batch if name in layout.columns}
    rows = canonical_rows(read, layout.format, mapping)
    usable = [position for position, row in enumerate(rows) if not row.reason]
    for row in rows:
        if row.reason:
            _warn_of_stream(f"{row.reason}: {row.detail}")
            break
    read = {name: [values[position] for position in usable] for name, values in read.items()}
    return _columns([rows[position] for position in usable], read, layout, target, contents, text_arguments)


@lru_cache(maxsize=1)
def _warn_of_stream(reason: str) -> None:
    logger.warning("Streaming rows that cannot be used are left out. The first one is %s.", reason)


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
    return getattr(feature, "dtype", None) in ("string", "large_string", "string_view")


def _is_plain_chat(data: Dataset, name: str) -> bool:
    """Return whether all messages of a column have only a text as content and a role of chat templates."""
    message = getattr(data.features[name], "feature", None)
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        return False
    if not all(_is_text(feature) for feature in message.values()):
        return False
    roles = set[str | None]()
    for table in data.select_columns([name]).with_format("arrow").iter(batch_size=10_000):
        for chunk in table.column(name).chunks:
            messages = chunk.flatten()
            if messages.field("content").null_count:  # of tool calls; templates fail for null or write "None"
                return False
            roles |= set(messages.field("role").unique().to_pylist())
    return roles <= _CHAT_ROLES


def _target(pool: Pool, data: Dataset, chat_template: bool) -> str:
    """Return what to write: "messages"; prompt and completion as "chat", as "text" or "mixed"; or "plain", a text."""
    from datasets import Json

    if "messages" in pool.layout.fields:
        return "messages"
    if pool.format == "text":
        return "plain"
    target = "text" if "prompt" in pool.layout.fields or not chat_template else "chat"
    columns = _text_or_messages(pool.layout)
    others = [data.features[name] for name in columns if not _is_text(data.features[name])]
    if target == "chat" or not others:
        return target
    if not all(isinstance(feature, Json) for feature in others):
        return "chat"
    kinds = {
        all(isinstance(value, str) for value in values)
        for table in data.select_columns(columns).with_format("arrow").iter(batch_size=1_000)
        for values in zip(*table_values(table).values(), strict=True)
    }
    return "mixed" if len(kinds) > 1 else "text" if kinds == {True} else "chat"


def _text_or_messages(layout: Layout) -> list[str]:
    """Return the columns that are all text in a row of text."""
    return [name for key, name in layout.fields.items() if key != "rejected"]


def _features(target: str, contents: int) -> Features:
    from datasets import Features, List, Value

    text = Value("string")
    message = {"role": text, "content": text}
    chat: Any = List({**message, MESSAGE: text} if _has_message(target, contents) else message)
    features: dict[str, Any] = {POOL_ROW: Value("int64")}
    features |= {name: text if target in ("text", "plain") else chat for name in _names(target)}
    if contents & TOOLS:
        features["tools"] = text
    if contents & KWARGS:
        features["chat_template_kwargs"] = {JSON_KWARGS: text}
    if contents & UNTRAINED:
        features["untrained_turns"] = List(Value("int64"))
    return Features(features)


def _names(target: str) -> list[str]:
    """Return the columns that hold the text or the messages."""
    return {"messages": ["messages"], "plain": ["text"]}.get(target, ["prompt", "completion"])


def _has_message(target: str, contents: int) -> bool:
    return target == "mixed" or (target in ("messages", "chat") and bool(contents & KEYS))


def _convert_batch(
    table: pa.Table,
    row_format: str,
    columns: dict[str, str] | None,
    target: str,
    contents: int,
    text_arguments: bool,
    version: int,
) -> dict[str, list[Any]]:
    batch = table_values(table)
    numbers = batch.pop(POOL_ROW)
    rows, layout = canonical_rows(batch, row_format, columns), row_layout(list(batch), columns, row_format)
    return {POOL_ROW: numbers, **_columns(rows, batch, layout, target, contents, text_arguments)}


def _columns(
    rows: list[Row], batch: Batch, layout: Layout, target: str, contents: int, text_arguments: bool
) -> dict[str, list[Any]]:
    """Return the columns of converted rows, given the rows and the columns that they were read from."""
    if target in ("text", "mixed"):
        values = zip(*(batch[name] for name in _text_or_messages(layout)), strict=True)
        converted = [_pair(row, layout, texts, target) for row, texts in zip(rows, values, strict=True)]
    else:
        write = {"messages": _messages, "chat": _chat_pair, "plain": _plain}[target]
        converted = [write(row) for row in rows]
    names = _names(target)
    result: dict[str, list[Any]] = {name: [values[name] for values in converted] for name in names}
    if _has_message(target, contents):
        for name in names:
            result[name] = [_with_json(messages, text_arguments) for messages in result[name]]
    if contents & TOOLS:
        result["tools"] = [None if row.tools is None else dump_json(row.tools) for row in rows]
    if contents & KWARGS:
        kwargs = [row.chat_template_kwargs for row in rows]
        result["chat_template_kwargs"] = [{JSON_KWARGS: dump_json(value) if value else None} for value in kwargs]
    if contents & UNTRAINED:
        result["untrained_turns"] = [
            [position for position, turn in enumerate(row.turns) if not turn.trained] for row in rows
        ]
    return result


def _with_json(messages: list[dict[str, Any]], text_arguments: bool) -> list[dict[str, Any]]:
    """Return messages with role, content, and all keys as JSON text."""
    messages = with_text_arguments(messages) if text_arguments else messages
    return [
        {
            "role": message["role"],
            "content": message["content"],
            MESSAGE: dump_json(message) if len(message) > len(("role", "content")) else None,
        }
        for message in messages
    ]


def _messages(row: Row) -> dict[str, Any]:
    return {"messages": row.messages}


def _chat_pair(row: Row) -> dict[str, Any]:
    messages = row.messages
    return {"prompt": messages[: row.context], "completion": messages[row.context :]}


def _pair(row: Row, layout: Layout, values: tuple[Any, ...], target: str) -> dict[str, Any]:
    """Return prompt and completion as text, or as messages if the row has any."""
    if not all(isinstance(value, str) for value in values):
        return _chat_pair(row)
    pair = _text_pair(row, layout, values)
    if target == "text":
        return pair
    return {name: [{"role": TEXT_ROLE, "content": text}] for name, text in pair.items()}


def _text_pair(row: Row, layout: Layout, values: tuple[Any, ...]) -> dict[str, Any]:
    """Return prompt and completion as text: what the row has, or the Alpaca prompt if the columns ask for one."""
    if "prompt" in layout.fields:
        return {"prompt": _joined(row, row.turns[-2].content), "completion": row.response}
    if "rejected" not in layout.fields:
        return {"prompt": _joined(row, f"{alpaca_prompt(row.instruction, row.input)}\n"), "completion": row.response}
    return _dialogue(row) if values[0].lstrip().startswith("Human:") else _continued(row)


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
