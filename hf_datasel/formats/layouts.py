"""Supported row formats, and the columns that hold them.

| format | columns | response |
|---|---|---|
| `tokenized` | `input_ids`; also read: `labels`, `completion_mask`, `assistant_masks` | the tokens with a label |
| `prompt-completion` | `prompt`, `completion` (text, or lists of messages) | the completion |
| `messages` | `messages`: list of `{"role", "content"}`, also as JSON text | every assistant turn |
| `preference` | `prompt` or a name like it, and `chosen`; or `chosen` and `rejected` | the chosen answer |
| `sharegpt` | `conversations`: list of `{"from", "value"}`, or of plain strings in turn | every assistant turn |
| `alpaca` | `instruction`, `output` and, where there is one, `input` | the output |
| `text` | `text` | none: an error where a response is needed |
| `instruction-response` | a pair such as `instruction` and `response`, and optionally `context` | the response |

The first entry of the table whose columns are all there is the format; names in other capitals count only if no entry
matches as it is written. Tokenized rows have no text: their ids are those of the tokens and labels, and only scores of
tokens or columns can be computed. All formats but these and `text` also read a system prompt, tools, arguments of the
chat template and a column that masks responses; those with one prompt and one response read earlier turns from
`history`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from hf_datasel.errors import FormatError, did_you_mean

__all__ = ["FORMATS", "Layout", "detect_format", "row_columns", "row_layout", "unread_columns"]


@dataclass(frozen=True)
class _Entry:
    """An entry of the table of layouts.

    Args:
        format: Name of the row format.
        fields: Fields of the format, and the column of each.
        optional: Further fields, and the columns that may hold them, the first that is there.
    """

    format: str
    fields: dict[str, str]
    optional: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """Names of all columns that rows of this layout can have."""
        return {*self.fields.values(), *(name for names in self.optional.values() for name in names)}


_SHARED = {
    "system": ("system", "system_prompt"),
    "tools": ("tools",),
    "chat_template_kwargs": ("chat_template_kwargs",),
    "masked": ("masked", "mask"),
    "trained": ("message_loss_mask",),
}
_HISTORY = {"history": ("history",)}

_PAIRS = (
    *(("instruction", "response"), ("question", "answer"), ("question", "response"), ("prompt", "response")),
    *(("query", "response"), ("query", "answer"), ("problem", "solution"), ("inputs", "targets")),
    *(("instruct", "output"), ("instruction", "answer"), ("instruction", "completion"), ("prompt", "answer")),
    *(("prompt", "output"), ("question", "output"), ("question", "solution"), ("problem", "answer")),
    *(("input", "output"), ("input", "target"), ("user", "assistant"), ("human", "assistant"), ("human", "bot")),
)


def _pair(prompt: str, response: str) -> _Entry:
    inputs = tuple(name for name in ("context", "input") if name != prompt)
    return _Entry(
        "instruction-response",
        {"instruction": prompt, "output": response},
        {"input": inputs, **_HISTORY, **_SHARED},
    )


def _preference(prompt: str) -> _Entry:
    inputs = tuple(name for name in ("input", "context") if name != prompt)
    return _Entry("preference", {"instruction": prompt, "chosen": "chosen"}, {"input": inputs, **_HISTORY, **_SHARED})


_ENTRIES = (
    _Entry(
        "tokenized",
        {"input_ids": "input_ids"},
        {name: (name,) for name in ("labels", "completion_mask", "assistant_masks", "seq_lengths")},
    ),
    _Entry("prompt-completion", {"prompt": "prompt", "completion": "completion"}, _SHARED),
    _Entry("messages", {"messages": "messages"}, _SHARED),
    _Entry("preference", {"prompt": "prompt", "chosen": "chosen"}, {"rejected": ("rejected",), **_SHARED}),
    _Entry("preference", {"prompt": "conversations", "chosen": "chosen"}, {"rejected": ("rejected",), **_SHARED}),
    _Entry("sharegpt", {"messages": "conversations"}, _SHARED),
    _Entry("alpaca", {"instruction": "instruction", "output": "output"}, {"input": ("input",), **_HISTORY, **_SHARED}),
    _Entry("text", {"text": "text"}),
    *(_preference(name) for name in ("question", "instruction", "query", "input")),
    _Entry("preference", {"chosen": "chosen", "rejected": "rejected"}, _SHARED),
    *(_pair(*names) for names in _PAIRS),
    *(
        _Entry("messages", {"messages": name}, _SHARED)
        for name in ("conversation", "dialog", "dialogue", "dialogs", "chat", "turns", "data")
    ),
)
"""Layouts in the order in which they are tried. The order of the first eight is that of earlier versions."""


def _formats() -> dict[str, tuple[frozenset[str], ...]]:
    formats: dict[str, tuple[frozenset[str], ...]] = {}
    for entry in _ENTRIES:
        formats[entry.format] = (*formats.get(entry.format, ()), frozenset(entry.fields.values()))
    return formats


FORMATS: dict[str, tuple[frozenset[str], ...]] = _formats()
"""Columns that each row format requires, one set for each alternative."""

_MESSAGE_KEYS = ("role", "content")
_KEYS = sorted(
    {name for entry in _ENTRIES for name in entry.fields.values()}
    | {name for names in (*_SHARED.values(), *_HISTORY.values()) for name in names}
    | {"context", *_MESSAGE_KEYS}
)
"""Names that a mapping of columns can have."""

_SUSPECTS = {
    "system": ("system", "system_prompt", "system_message", "system_instruction"),
    "tools": ("tools", "functions", "function", "tool_definitions", "tool_defs", "tool_schemas", "available_tools"),
    "input": ("context", "input", "documents", "knowledge", "passage"),
    "history": ("history",),
    "thinking": ("thinking", "reasoning", "reasoning_content", "think", "chain_of_thought", "cot"),
    "masked": ("masked", "mask", "message_loss_mask"),
    "chat_template_kwargs": ("chat_template_kwargs",),
    "": ("enable_thinking", "loss_mask", "videos", "audios", "video", "audio"),
}
"""Names of columns that look like part of a row, by the field that could read them."""


@dataclass(frozen=True)
class Layout:
    """The columns of a dataset that make its rows.

    Args:
        format: Name of the row format, a key of `FORMATS`.
        fields: Fields that every row has, and the dataset's column of each.
        optional: Further fields that the dataset has, and the column of each.
        role_key: Key of the role in a message; None for `role` or `from`.
        content_key: Key of the content in a message; None for `content` or `value`.
    """

    format: str
    fields: Mapping[str, str]
    optional: Mapping[str, str]
    role_key: str | None = None
    content_key: str | None = None

    @property
    def columns(self) -> set[str]:
        """Columns of the dataset that are read."""
        return {*self.fields.values(), *self.optional.values()}


def row_layout(
    columns: Sequence[str], mapping: Mapping[str, str] | None = None, row_format: str | None = None
) -> Layout:
    """Return which of these columns make the rows.

    Args:
        columns: Column names of a dataset.
        mapping: Names of columns of the supported formats, or `role` and `content` of messages, and the names that
            the dataset has for them.
        row_format: A key of `FORMATS`; detected from the columns by default.

    Raises:
        FormatError: The columns match no supported format, or the mapping does not fit them.
    """
    items = tuple((mapping or {}).items())
    if not all(isinstance(text, str) for item in items for text in item):
        raise FormatError(f"columns={mapping!r} has to map names to the names of the dataset's columns.")
    return _row_layout(tuple(columns), items, row_format)


@lru_cache(maxsize=256)
def _row_layout(columns: tuple[str, ...], mapping: tuple[tuple[str, str], ...], row_format: str | None) -> Layout:
    keys = {key: name for key, name in mapping if key in _MESSAGE_KEYS}
    renamed = {key: name for key, name in mapping if key not in _MESSAGE_KEYS}
    _check_mapping(columns, renamed)
    names = {name: name for name in columns if name not in renamed.values()} | renamed
    entries = [entry for entry in _ENTRIES if row_format in (None, entry.format)]
    lower: dict[str, str] = {}
    for name in names:
        if name not in lower:
            lower[name.lower()] = names.get(name.lower(), names[name])
    # What the mapping names is more explicit than any other column.
    ranked = sorted(entries, key=lambda entry: -len(renamed.keys() & entry.names))
    for present in (names, lower):
        for entry in ranked:
            if present.keys() >= set(entry.fields.values()):
                layout = _layout(entry, names, lower, keys)
                _check_use(renamed, keys, layout, columns)
                return layout
    raise _unknown(columns, dict(mapping), row_format)


def _layout(entry: _Entry, names: dict[str, str], lower: dict[str, str], keys: dict[str, str]) -> Layout:
    fields = {key: names.get(name) or lower[name] for key, name in entry.fields.items()}
    optional = {}
    for key, alternatives in entry.optional.items():
        present = [names.get(name) or lower.get(name) for name in alternatives]
        column = next((name for name in present if name is not None and name not in fields.values()), None)
        if column is not None:
            optional[key] = column
    return Layout(entry.format, fields, optional, keys.get("role"), keys.get("content"))


def _check_mapping(columns: tuple[str, ...], renamed: dict[str, str]) -> None:
    for key, name in renamed.items():
        if key not in _KEYS:
            raise FormatError(
                f"columns maps {key!r}, which is no column of a row format ({', '.join(_KEYS)})."
                f"{did_you_mean(key, _KEYS)}"
            )
        if name not in columns:
            raise FormatError(
                f"columns maps {key!r} to {name!r}, but the columns are {list(columns)}.{did_you_mean(name, columns)}"
            )
    twice = next((name for name in renamed.values() if list(renamed.values()).count(name) > 1), None)
    if twice is not None:
        keys = [key for key, name in renamed.items() if name == twice]
        raise FormatError(f"columns maps {keys} to the same column {twice!r}; each needs a column of its own.")


def _check_use(renamed: dict[str, str], keys: dict[str, str], layout: Layout, columns: tuple[str, ...]) -> None:
    if keys and layout.format in ("text", "tokenized", "alpaca", "instruction-response"):
        raise FormatError(
            f"columns maps {sorted(keys)}, the keys of a message, but rows of the format {layout.format} have no "
            f"messages. Map 'messages' too; the columns are {list(columns)}."
        )
    for key, name in renamed.items():
        if name not in layout.columns:
            raise FormatError(
                f"columns maps {key!r} to {name!r}, which rows of the format {layout.format} do not read: they are "
                f"made of {sorted(layout.columns)}. Map the other columns of the format of {key!r} too; the columns "
                f"are {list(columns)}."
            )


def _unknown(columns: tuple[str, ...], mapping: dict[str, str], row_format: str | None) -> FormatError:
    names = sorted({column for alternatives in FORMATS.values() for required in alternatives for column in required})
    hints = (did_you_mean(column, names) for column in columns if column not in names)
    hint = next((hint for hint in hints if hint), "")
    formats = "; ".join(f"{name}: {' + '.join(sorted(alternatives[0]))}" for name, alternatives in FORMATS.items())
    if row_format is not None:
        return FormatError(f"The columns {list(columns)} are not those of the format {row_format}.{hint}")
    suggested = _suggestion(columns, mapping)
    return FormatError(
        f"The columns {list(columns)} match none of the supported formats ({formats}).{hint}",
        f"Name the columns with columns={json.dumps(suggested, ensure_ascii=False)}.",
        f"Name the columns with --columns '{json.dumps(suggested, ensure_ascii=False)}'.",
    )


_PROMPT_WORDS = ("prompt", "question", "instruct", "input", "query", "ask", "user", "problem", "source", "request")
_RESPONSE_WORDS = ("completion", "answer", "response", "output", "reply", "solution", "target", "assistant", "result")


_NO_TEXT = re.compile(r"id$|(^|_)(idx|index|source|category|label|score|split|model|lang|language|type|date|url)$")
"""Names of columns that are hardly a prompt or a response."""


def _suggestion(columns: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Return a mapping of these columns to guess at, the user's own included."""
    free = [name for name in columns if name not in mapping.values() and not _NO_TEXT.search(name.lower())]

    def column(key: str, words: Sequence[str]) -> str:
        if key in mapping:
            return mapping[key]
        matches = (name for word in words for name in free if word in name.lower() or (did_you_mean(name, [word])))
        name = next(matches, free[0] if free else "...")
        if name in free:
            free.remove(name)
        return name

    return {"prompt": column("prompt", _PROMPT_WORDS), "completion": column("completion", _RESPONSE_WORDS)}


def detect_format(columns: Sequence[str], mapping: Mapping[str, str] | None = None) -> str:
    """Return the row format of these columns, the most explicit one if several match.

    Args:
        columns: Column names of a dataset.
        mapping: Names of columns of the supported formats, and the names that the dataset has for them.

    Returns:
        A key of `FORMATS`.

    Raises:
        FormatError: The columns match no supported format.

    >>> detect_format(["instruction", "input", "output", "text"])
    'alpaca'
    """
    return row_layout(columns, mapping).format


def row_columns(present: Sequence[str], row_format: str, mapping: Mapping[str, str] | None = None) -> list[str]:
    """Return the columns of a row format, out of those present, in their order."""
    columns = row_layout(present, mapping, row_format).columns
    return [name for name in present if name in columns]


def _hidden_layout(columns: Sequence[str], read: set[str]) -> dict[str, str]:
    """Return the columns of a format with a response that the columns read hide, each by its own name."""
    others = [name for name in columns if name.lower() not in read]
    try:
        layout = row_layout(others)
    except FormatError:
        return {}
    return {name: name.lower() for name in layout.fields.values()}


def unread_columns(columns: Sequence[str], layout: Layout) -> dict[str, str]:
    """Return the columns that look like part of a row and are not read, and the field that would read each.

    Args:
        columns: Column names of a dataset.
        layout: The layout of its rows.

    Returns:
        Column and key of the mapping that reads it; "" where nothing can.
    """
    if layout.format in ("tokenized", "text"):
        return _hidden_layout(columns, next(entry.names for entry in _ENTRIES if entry.format == layout.format))
    readable = {name for entry in _ENTRIES if entry.format == layout.format for name in entry.optional}
    unread = {}
    for name in columns:
        key = next((key for key, names in _SUSPECTS.items() if name.lower() in names), None)
        if key is not None and name not in layout.columns:
            unread[name] = key if key in readable and key not in layout.optional else ""
    return unread
