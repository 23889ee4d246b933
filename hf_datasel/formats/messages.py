"""Messages of a conversation as published datasets write them, read as turns."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

from hf_datasel.formats.json_values import json_value, load_json
from hf_datasel.formats.message_shapes import by_message, with_roles
from hf_datasel.formats.rows import Turn

__all__ = [
    "ROLES",
    "TEXT_ROLES",
    "MalformedRowError",
    "describe",
    "drop_nulls",
    "mask",
    "parse_json",
    "read_flag",
    "read_messages",
    "text_of",
    "with_text_arguments",
]

ROLES = {
    "system": "system", "developer": "developer",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "chatbot": "assistant", "ai": "assistant", "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "tool_response": "tool",
    "ipython": "tool",
}  # fmt: skip
"""Mapping from role names in published datasets, in lower case, to the roles of chat templates."""

_CALL_ROLES = ("function_call", "tool_call")
"""Roles whose text is the JSON of a call (ShareGPT, ms-swift)."""

TEXT_ROLES = frozenset(ROLES) - set(_CALL_ROLES)
"""Roles whose text is a text."""

_DEFAULT_KEYS = ("role", "from", "content", "value")
"""Keys of the role and of the content in a message, each with the other name it has."""

_TRAINED_FLAGS = ("weight", "train", "training", "train_on_turn", "trainable", "loss")
"""Keys of a message whose value 1 or true means that the loss covers it.

`weight` is OpenAI's and Mistral's, `train` and `training` are axolotl's, `loss` is ms-swift's, `trainable` Fireworks'.
"""

_MASKED_FLAGS = ("mask", "masked")
"""Keys of a message whose value 1 or true means that the loss does not cover it; `masked` is torchtune's."""

_TEXT_PARTS = ("text", "input_text", "output_text")
"""Types of content parts that are text; the last two are those of OpenAI's Responses API."""

_THINKING_KEYS = ("reasoning_content", "thinking", "reasoning")


class MalformedRowError(Exception):
    """A row that cannot be used.

    Args:
        reason: One word that says why.
        detail: The column or message, what it holds, and what to do.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def describe(value: Any) -> str:
    """Return what a value is, in words.

    >>> describe(5), describe({"a": 1})
    ('a number (5)', "a mapping with ['a']")
    """
    if value is None:
        return "null"
    if isinstance(value, str):
        return f"text ({_short(value)!r})" if value.strip() else "no text"
    if isinstance(value, bool):
        return f"a boolean ({value})"
    if isinstance(value, int | float):
        return f"a number ({value})"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"a mapping with {list(value)}" if isinstance(value, dict) else type(value).__name__


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


def text_of(value: Any, place: str) -> str:
    """Return a text, or raise `MalformedRowError` if the value is none.

    Args:
        value: The value.
        place: Where it is, such as "column 'output'".
    """
    if not isinstance(value, str):
        raise MalformedRowError("wrong_type", f"{place} is {describe(value)}, and has to be text")
    return value


def parse_json(text: str, place: str, keep_nulls: bool = False) -> Any:
    """Return the value of a JSON text, or raise `MalformedRowError` if it is none.

    Args:
        text: The JSON text.
        place: Where it is, such as "column 'tools'".
        keep_nulls: Whether mappings keep their nulls; else they are as in rows that Arrow pads with nulls.
    """
    try:
        return load_json(text) if keep_nulls else drop_nulls(load_json(text))
    except (ValueError, RecursionError) as error:
        raise MalformedRowError("invalid_json", f"{place} is not valid JSON ({_short(text)!r}: {error})") from error


def drop_nulls(value: Any) -> Any:
    """Return a value without the nulls that Arrow pads mappings with, as JSON types.

    Args:
        value: Any value of a dataset.
    """
    if isinstance(value, dict):
        return {str(key): drop_nulls(item) for key, item in value.items() if not _is_null(item)}
    if isinstance(value, list | tuple):
        return [drop_nulls(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return drop_nulls(json_value(value))


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def read_messages(
    messages: Any, place: str, role_key: str | None = None, content_key: str | None = None
) -> list[Turn]:
    """Read a list of messages, or its JSON text, as turns.

    Args:
        messages: Messages with role and content, or from and value, also as one list for each key; mappings from
            speakers to texts; or plain texts of the user and the assistant in turn.
        place: Where they are, such as "column 'messages'".
        role_key: Key of the role in a message; `role` or `from` by default.
        content_key: Key of the content in a message; `content` or `value` by default.

    Raises:
        MalformedRowError: They are no messages.
    """
    if isinstance(messages, str) and messages.lstrip().startswith(("[", "{")):
        messages = parse_json(messages, place)
    if isinstance(messages, dict) and ("role" in messages or "from" in messages):
        messages = by_message(messages) or [messages]
    if not isinstance(messages, list):
        raise MalformedRowError("wrong_type", f"{place} is {describe(messages)}, and has to be a list of messages")
    keys = _DEFAULT_KEYS
    if role_key or content_key:
        keys = (role_key or "role", role_key or "from", content_key or "content", content_key or "value")
    elif messages and isinstance(messages[0], dict) and not ("role" in messages[0] or "from" in messages[0]):
        messages = with_roles(messages, ROLES)
    return [_turn(message, number, place, keys) for number, message in enumerate(messages)]


def mask(turn: Turn) -> Turn:
    """Return the turn as one that the loss does not cover, if it is one of the assistant."""
    return replace(turn, trained=False) if turn.role == "assistant" else turn


def _turn(message: Any, number: int, place: str, keys: tuple[str, str, str, str]) -> Turn:
    if isinstance(message, dict):
        if len(message) == 2 and keys is _DEFAULT_KEYS:  # nothing but a role and a text, quickly
            role, content = ("role", "content") if "role" in message else ("from", "value")
            name, text = message.get(role), message.get(content)
            if type(text) is str and type(name) is str and name in TEXT_ROLES:
                return Turn(ROLES[name], text)
        return _read(message, f"message {number} of {place}", keys)
    if isinstance(message, str):
        if message.startswith("{") and '"role"' in message:
            return _turn(parse_json(message, f"message {number} of {place}"), number, place, keys)
        return Turn("assistant" if number % 2 else "user", message)  # LIMA, UltraChat
    raise MalformedRowError(
        "wrong_type", f"message {number} of {place} is {describe(message)}, and has to be a mapping with a role"
    )


def _read(raw: dict[str, Any], place: str, keys: tuple[str, str, str, str]) -> Turn:
    message = {key: drop_nulls(value) for key, value in raw.items() if not _is_null(value)}
    role_key, other_role_key, content_key, other_content_key = keys
    name = message.pop(role_key, None)
    if name is None:
        name = message.pop(other_role_key, None)
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        found = f"has the role {name!r}" if name is not None else f"has no role: its keys are {list(raw)}"
        advice = f"known roles are {', '.join(ROLES)}" if name is not None else "name the key of its role"
        raise MalformedRowError("unknown_role", f"{place} {found}; {advice}")
    content = message.pop(content_key, None)
    if content is None:
        content = message.pop(other_content_key, None)
    trained = _flags(message, place) or role != "assistant"
    if isinstance(content, list):
        content = _content_parts(content, place, message)
    calls = _tool_calls(message, place)
    if role == "assistant" and isinstance(name, str) and name.lower() in _CALL_ROLES and not calls:
        calls = _calls_of_text(content)
        content = None if calls else content
    thinking = next((message[key] for key in _THINKING_KEYS if _is_text(message.get(key))), None)
    if content is None and role == "assistant":
        other = [] if calls or thinking else [key for key, value in message.items() if _is_text(value)]
        if other:
            raise MalformedRowError(
                "missing_content",
                f"{place} has no {content_key}, but text in {other}: name the key with columns={{'content': ...}}",
            )
        content = ""  # every template of TRL's renders this; absent or null content fails, or is rendered as "None"
    content = text_of(content, f"{content_key} of {place}")
    if calls:
        message["tool_calls"] = calls
    if not message:
        return Turn(role, content, None, trained)
    shown = [thinking, content, json.dumps(calls, ensure_ascii=False, sort_keys=True) if calls else None]
    text = "\n".join(part for part in shown if part)
    return Turn(role, text, {"role": role, "content": content, **message}, trained)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _content_parts(parts: list[Any], place: str, message: dict[str, Any]) -> str:
    """Return the text of content parts, and move their thinking into the message."""
    texts, thoughts = [], []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if kind == "thinking":
            thought = part.get("thinking")
            thoughts.append(_content_parts(thought if isinstance(thought, list) else [thought], place, {}))
            continue
        if kind not in _TEXT_PARTS:
            raise MalformedRowError("wrong_type", f"{place} has a part of type {kind!r}; only text is read")
        text = part.get("text") if isinstance(part, dict) else part
        texts.append(text_of(text, f"a text part of {place}"))
    if thinking := "\n".join(thoughts):
        if present := [key for key in _THINKING_KEYS if _is_text(message.get(key))]:
            raise MalformedRowError("wrong_type", f"{place} has thinking in its content and in {present[0]!r}")
        message["reasoning_content"] = thinking
    return "".join(texts)


# -- loss flags -------------------------------------------------------------------------------------------------------
def _flags(message: dict[str, Any], place: str) -> bool:
    """Remove the loss flags from a message, and return whether the loss covers it."""
    trained = True
    for key in (*_TRAINED_FLAGS, *_MASKED_FLAGS):
        if key in message:
            value = read_flag(message.pop(key), f"{key} of {place}")
            trained = trained and value != (key in _MASKED_FLAGS)
    parts = message.pop("train_detail", None)  # axolotl: parts of the text, by position
    if parts and not all(isinstance(part, dict) and part.get("train", True) for part in parts):
        raise MalformedRowError("unsupported_flag", f"train_detail of {place} excludes a part of a message")
    return trained


def read_flag(value: Any, place: str) -> bool:
    """Return a loss flag as a boolean, or raise `MalformedRowError` if it is neither 0 nor 1.

    Args:
        value: The flag.
        place: Where it is.
    """
    if isinstance(value, str) and value.strip().lower() in _FLAG_TEXTS:
        return _FLAG_TEXTS[value.strip().lower()]
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise MalformedRowError("unsupported_flag", f"{place} is {describe(value)}, and has to be 0 or 1")


_FLAG_TEXTS = {"true": True, "1": True, "false": False, "0": False}


# -- tool calls -------------------------------------------------------------------------------------------------------
def _tool_calls(message: dict[str, Any], place: str) -> list[Any]:
    """Remove the calls from a message, and return them as chat templates read them."""
    calls = message.pop("tool_calls", None)
    if isinstance(calls, str):
        calls = parse_json(calls, f"tool_calls of {place}") if calls.strip() else None
    old = message.pop("function_call", None)
    if isinstance(old, str):
        old = parse_json(old, f"function_call of {place}") if old.strip() else None
    if not calls and old:
        calls = old
    if isinstance(calls, dict):
        calls = [calls] if calls else []
    if calls is not None and not isinstance(calls, list):
        raise MalformedRowError("wrong_type", f"tool_calls of {place} is {describe(calls)}, and has to be a list")
    return [_call(call, place) for call in calls or []]


def _call(call: Any, place: str) -> Any:
    if isinstance(call, str):
        call = parse_json(call, f"a tool call of {place}")
    if isinstance(call, dict) and "function" not in call and isinstance(call.get("name"), str):
        call = {"type": "function", "function": call}
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise MalformedRowError("wrong_type", f"a tool call of {place} is {describe(call)}; it has to name a function")
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return call
    place = f"arguments of a tool call of {place}"
    parsed = parse_json(arguments, place, keep_nulls=True) if arguments.strip() else {}
    if isinstance(parsed, dict):
        return {**call, "function": {**function, "arguments": _ParsedArguments(parsed, arguments)}}
    return call


class _ParsedArguments(dict[str, Any]):
    """Arguments of a tool call that the dataset has as JSON text.

    Args:
        arguments: The arguments.
        text: The JSON text.
    """

    def __init__(self, arguments: dict[str, Any], text: str):
        super().__init__(arguments)
        self.text = text


def with_text_arguments(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages with the arguments of tool calls as JSON text: that of the dataset, if it has them as text.

    Args:
        messages: Messages as chat templates receive them, with mappings.
    """
    return [
        {**message, "tool_calls": [_with_text_arguments(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _with_text_arguments(call: dict[str, Any]) -> dict[str, Any]:
    arguments = call["function"].get("arguments")
    if isinstance(arguments, str):
        return call
    text = getattr(arguments, "text", None) or json.dumps(arguments or {}, ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": text}}


def _calls_of_text(content: Any) -> list[Any]:
    """Return the calls that a text is the JSON of; none for another text."""
    try:
        value = parse_json(content, "", keep_nulls=True) if _is_text(content) else None
        calls: list[Any] = value if isinstance(value, list) else [value]
        is_call = [isinstance(call, dict) and {"name", "arguments"} <= call.keys() for call in calls]
        if not calls or not all(is_call):
            return []
        return [_call({**drop_nulls(call), "arguments": call["arguments"]}, "") for call in calls]
    except MalformedRowError:
        return []
