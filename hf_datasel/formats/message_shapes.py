"""Lists of messages in other shapes: by key instead of by message, and with the speaker as the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["by_message", "is_chat", "is_message", "with_roles"]

_ROLE_KEYS = ("role", "from")
_KEYS = {
    *(*_ROLE_KEYS, "content", "value", "name", "tool_calls", "tool_call_id", "reasoning_content", "thinking"),
    *("weight", "train", "loss", "mask"),
}
_ROLES = {"input": "user", "output": "assistant"}
"""Roles of keys that are no names of roles."""


def is_message(value: Any) -> bool:
    """Return whether a value is one message: a mapping with a role that is a text.

    Args:
        value: Any value.
    """
    return isinstance(value, Mapping) and any(isinstance(value.get(role), str) for role in _ROLE_KEYS)


def is_chat(value: Any) -> bool:
    """Return whether a value is a list of messages that have nothing but the keys of messages.

    Args:
        value: Any value.
    """
    return isinstance(value, list) and bool(value) and all(is_message(item) and item.keys() <= _KEYS for item in value)


def by_message(columns: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the messages that are stored as one list for each key, as `datasets.Sequence` stores them.

    Args:
        columns: The list of each key.

    Returns:
        One mapping per message; None if the values are no such lists of one length.

    >>> by_message({"role": ["user", "assistant"], "content": ["Hi", "Hello."]})
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello.'}]
    """
    present = {key: values for key, values in columns.items() if values is not None}
    if not any(role in present for role in _ROLE_KEYS) or not all(isinstance(v, list) for v in present.values()):
        return None
    if len({len(values) for values in present.values()}) != 1:
        return None
    return [dict(zip(present, values, strict=True)) for values in zip(*present.values(), strict=True)]


def with_roles(messages: list[Any], roles: Mapping[str, str]) -> list[Any]:
    """Return messages with a role and a content in place of those whose keys are the speakers.

    One such mapping can hold several turns, as in XTuner's (`system`, `input`, `output`) and Firefly's (`human`,
    `assistant`): first the system prompt, if it is not empty, then the user's turn, then the others.

    Args:
        messages: Messages; those with other keys are returned as they are.
        roles: Mapping from the names of roles to those of chat templates.

    >>> with_roles([{"human": "Hi", "assistant": "Hello."}], {"human": "user", "assistant": "assistant"})
    [{'role': 'human', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello.'}]
    """
    result, speakers = [], {**_ROLES, **roles}
    for message in messages:
        turns = _turns(message, speakers) if isinstance(message, Mapping) else []
        result += turns or [message]
    return result


def _turns(message: Mapping[str, Any], speakers: Mapping[str, str]) -> list[dict[str, Any]]:
    present = {key: value for key, value in message.items() if value is not None}
    if not all(isinstance(key, str) and key.lower() in speakers for key in present):
        return []
    order = {"system": 0, "developer": 0, "user": 1}
    keys = sorted(present, key=lambda key: order.get(speakers[key.lower()], 2))
    turns = [{"role": _ROLES.get(key, key), "content": present[key]} for key in keys]
    return [turn for turn in turns if turn["content"] != "" or speakers[turn["role"].lower()] != "system"]
