"""Canonical content of rows of plain text, without the canonical rows that all others need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hf_datasel.formats.layouts import Layout
from hf_datasel.formats.messages import ROLES, TEXT_ROLES
from hf_datasel.formats.rows import Batch, turn_json

__all__ = ["plain_contents"]


def plain_contents(batch: Batch, layout: Layout) -> Sequence[str | None]:
    """Return the canonical content of each usable row of plain text, as JSON text: its SHA-256 is `Row.digest`.

    Plain text are a prompt and a response, with or without a system prompt; messages of a role and a text; and a text
    column. It has neither keys, tools and template arguments nor untrained turns.

    Args:
        batch: Mapping from column name to values.
        layout: Layout of the rows.

    Returns:
        One text per row of the batch; None for a row that has to be read with `canonical_rows`, and may be unusable.
    """
    columns = {key: batch[name] for key, name in {**layout.fields, **layout.optional}.items()}
    nulls = [None] * len(next(iter(columns.values())))
    if layout.format not in _READERS or layout.role_key or layout.content_key:
        return nulls
    reader, keys = _READERS[layout.format]
    contents = list(map(reader, *(columns.get(key, nulls) for key in keys)))
    for key in columns.keys() - set(keys):
        pairs = zip(contents, columns[key], strict=True)
        contents = [content if _is_empty(value, key) else None for content, value in pairs]
    return contents


def _is_empty(value: Any, key: str) -> bool:
    return value is None or (key in ("tools", "history") and value in ("", []))


def _is_blank(text: str) -> bool:
    return not text or text.isspace()


def _pair(prompt: Any, response: Any, prompt_input: Any, system: Any) -> str | None:
    if type(prompt) is not str or type(response) is not str or _is_blank(response):
        return None
    if prompt_input is not None:
        if type(prompt_input) is not str:
            return None
        prompt = prompt if _is_blank(prompt_input) else f"{prompt}\n\n{prompt_input}"
    turns = f"{turn_json('user', prompt, False)}, {turn_json('assistant', response, True)}"
    if system is None:
        return f"[{turns}]"
    if type(system) is not str:
        return None
    return f"[{turns}]" if _is_blank(system) else f"[{turn_json('system', system, False)}, {turns}]"


def _conversation(messages: Any, system: Any) -> str | None:
    if type(messages) is not list or system is not None:
        return None
    turns, has_response = [], False
    for message in messages:
        if type(message) is not dict or len(message) != 2:
            return None
        role_key, content_key = ("role", "content") if "role" in message else ("from", "value")
        name, content = message.get(role_key), message.get(content_key)
        if type(content) is not str or type(name) is not str or name not in TEXT_ROLES:
            return None
        role = ROLES[name]
        is_response = role == "assistant"
        has_response = has_response or (is_response and not _is_blank(content))
        turns.append(turn_json(role, content, is_response))
    return f"[{', '.join(turns)}]" if has_response else None


def _text(text: Any) -> str | None:
    return None if type(text) is not str or _is_blank(text) else f"[{turn_json('text', text, False)}]"


_READERS: dict[str, tuple[Callable[..., str | None], tuple[str, ...]]] = {
    "alpaca": (_pair, ("instruction", "output", "input", "system")),
    "instruction-response": (_pair, ("instruction", "output", "input", "system")),
    "prompt-completion": (_pair, ("prompt", "completion", "input", "system")),
    "messages": (_conversation, ("messages", "system")),
    "sharegpt": (_conversation, ("messages", "system")),
    "text": (_text, ("text",)),
}
"""For each row format the function that reads a row, and the fields that it takes."""
