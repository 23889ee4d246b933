"""Supported row formats, and conversion of their rows into canonical instruction rows.

| format | columns | response |
|---|---|---|
| `prompt-completion` | `prompt`, `completion` (text, or lists of messages) | the completion |
| `messages` | `messages`: list of `{"role", "content"}` | every assistant turn |
| `preference` | `prompt` or `conversations`, and `chosen` | the chosen answer |
| `sharegpt` | `conversations`: list of `{"from", "value"}`, or of plain strings in turn | every assistant turn |
| `alpaca` | `instruction`, `output` and, where there is one, `input` | the output |
| `text` | `text` | none: an error where a response is needed |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hf_datasel.errors import FormatError, did_you_mean

__all__ = ["FORMATS", "Batch", "Part", "Row", "Turn", "canonical_rows", "detect_format"]

Part = Literal["prompt", "response", "both"]
Batch = Mapping[str, Sequence[Any]]

FORMATS: dict[str, tuple[frozenset[str], ...]] = {
    "prompt-completion": (frozenset({"prompt", "completion"}),),
    "messages": (frozenset({"messages"}),),
    "preference": (frozenset({"prompt", "chosen"}), frozenset({"conversations", "chosen"})),
    "sharegpt": (frozenset({"conversations"}),),
    "alpaca": (frozenset({"instruction", "output"}),),
    "text": (frozenset({"text"}),),
}

ROLES = {
    "system": "system", "developer": "developer",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "function_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
"""Mapping from role names in published datasets to the roles of chat templates."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation.

    Args:
        role: Role as in chat templates.
        content: Text of the message.
    """

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """Canonical form of a row, whatever its row format.

    Args:
        turns: All messages of the row.
        context: Index of the first turn that is trained on; assistant turns from there on are the responses.
        reason: Empty for a row that can be scored, otherwise one word that says why it cannot.
        instruction: Alpaca instruction, the prompt, or the first message.
        input: Alpaca input, which the published IFD prompts render separately.
    """

    turns: tuple[Turn, ...] = ()
    context: int = 0
    reason: str = ""
    instruction: str = ""
    input: str = ""

    @property
    def response(self) -> str:
        """Text of all response turns, one per line; empty for a malformed row."""
        return "\n".join(turn.content for turn in self.turns[self.context :] if turn.role == "assistant")

    @property
    def prompt(self) -> str:
        """Text of all other turns, one per line; empty for a malformed row."""
        if self.reason:
            return ""
        responses = {id(turn) for turn in self.turns[self.context :] if turn.role == "assistant"}
        return "\n".join(turn.content for turn in self.turns if id(turn) not in responses)

    @property
    def single_turn(self) -> bool:
        """Whether the row is one user turn and one assistant turn, as the published IFD prompts require."""
        return [turn.role for turn in self.turns] == ["user", "assistant"]

    def text(self, part: Part) -> str:
        """Return `prompt`, `response`, or both joined by a newline."""
        if part == "both":
            return f"{self.prompt}\n{self.response}"
        return self.prompt if part == "prompt" else self.response

    def digest(self) -> bytes:
        """Return the SHA-256 (32 bytes) of the canonical prompt and response, the id of the row in every format."""
        content = [
            [turn.role, turn.content, turn.role == "assistant" and position >= self.context]
            for position, turn in enumerate(self.turns)
        ]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")).digest()


def detect_format(columns: Sequence[str]) -> str:
    """Return the row format of these columns, the most explicit one if several match.

    Args:
        columns: Column names of a dataset.

    Returns:
        A key of `FORMATS`.

    Raises:
        FormatError: The columns match no supported format.

    >>> detect_format(["instruction", "input", "output", "text"])
    'alpaca'
    """
    present = set(columns)
    for name, alternatives in FORMATS.items():
        if any(required <= present for required in alternatives):
            return name
    names = sorted({column for alternatives in FORMATS.values() for required in alternatives for column in required})
    hints = (did_you_mean(column, names) for column in columns if column not in names)
    hint = next((hint for hint in hints if hint), "")
    formats = "; ".join(f"{name}: {' + '.join(sorted(alts[0]))}" for name, alts in FORMATS.items())
    raise FormatError(
        f"The columns {list(columns)} match none of the supported formats ({formats}).{hint} "
        "Rename the columns with dataset.rename_columns({...})."
    )


def canonical_rows(batch: Batch, row_format: str | None = None) -> list[Row]:
    """Convert a batch of rows into canonical rows. A malformed row has a `reason`.

    Args:
        batch: Mapping from column name to values.
        row_format: A key of `FORMATS`; detected from the columns by default.

    Returns:
        One `Row` per row of the batch.

    Raises:
        FormatError: The columns match no supported format.

    >>> canonical_rows({"prompt": ["Is it slow?"], "completion": ["Yes."]})[0].response
    'Yes.'
    """
    row_format = row_format or detect_format(list(batch))
    columns = _COLUMNS[row_format](batch)
    read = _READERS[row_format]
    rows = []
    for values in zip(*columns, strict=True):
        try:
            rows.append(read(*values))
        except _Malformed as error:
            rows.append(Row(turns=_raw_turns(values), context=1, reason=error.reason))
    return rows


class _Malformed(Exception):
    def __init__(self, reason: str):
        self.reason = reason


def _raw_turns(values: Sequence[Any]) -> tuple[Turn, ...]:
    """Return the values of a malformed row as one turn, from which its id is computed."""
    return (Turn("raw", json.dumps(values, default=str, ensure_ascii=False, sort_keys=True)),)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Malformed("wrong_type")
    return value


def _response(value: Any) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise _Malformed("empty_response")
    return _text(value)


def _alpaca_row(instruction: Any, instruction_input: Any, output: Any) -> Row:
    response, instruction = _response(output), _text(instruction)
    instruction_input = _text("" if instruction_input is None else instruction_input)
    user = f"{instruction}\n\n{instruction_input}" if instruction_input.strip() else instruction
    return Row((Turn("user", user), Turn("assistant", response)), 1, "", instruction, instruction_input)


def _prompt_completion_row(prompt: Any, completion: Any) -> Row:
    if isinstance(prompt, list) or isinstance(completion, list):
        if not isinstance(prompt, list) or not isinstance(completion, list):
            raise _Malformed("empty_response" if completion is None else "wrong_type")
        return _chat_row([*_turns(prompt), *_turns(completion)], len(prompt))
    response, prompt = _response(completion), _text(prompt)
    return Row((Turn("user", prompt), Turn("assistant", response)), 1, "", prompt)


def _messages_row(messages: Any) -> Row:
    return _chat_row(_turns(messages), 0)


def _preference_row(prompt: Any, chosen: Any) -> Row:
    if isinstance(prompt, str):
        return _prompt_completion_row(prompt, chosen)
    return _prompt_completion_row(prompt, [chosen] if isinstance(chosen, dict) else chosen)


def _text_row(text: Any) -> Row:
    if text is None or (isinstance(text, str) and not text.strip()):
        raise _Malformed("empty_text")
    return Row((Turn("text", _text(text)),))


def _turns(messages: Any) -> list[Turn]:
    if not isinstance(messages, list):
        raise _Malformed("wrong_type")
    return [_turn(message, position) for position, message in enumerate(messages)]


def _turn(message: Any, position: int) -> Turn:
    if isinstance(message, str):  # LIMA: plain strings, user and assistant in turn
        return Turn("assistant" if position % 2 else "user", message)
    if not isinstance(message, dict):
        raise _Malformed("wrong_type")
    role = message.get("role") if message.get("role") is not None else message.get("from")
    if not isinstance(role, str) or role not in ROLES:
        raise _Malformed("unknown_role")
    content = message.get("content") if message.get("content") is not None else message.get("value")
    if isinstance(content, list):
        content = _content_parts(content)
    calls = message.get("tool_calls")
    if calls:
        content = f"{_text('' if content is None else content)}{json.dumps(calls, default=str, sort_keys=True)}"
    if content is None and ROLES[role] == "assistant":
        raise _Malformed("empty_response")
    return Turn(ROLES[role], _text(content))


def _content_parts(parts: list[Any]) -> str:
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        raise _Malformed("wrong_type")
    return "".join(_text(part.get("text")) for part in parts)


_FOLLOWS = {
    "user": {"start", "system", "developer", "assistant"},
    "assistant": {"user", "tool"},
    "tool": {"assistant", "tool"},
    "system": {"start", "system", "developer"},
    "developer": {"start", "system", "developer"},
}


def _chat_row(turns: list[Turn], context: int) -> Row:
    previous = "start"
    for turn in turns:
        if previous not in _FOLLOWS[turn.role]:
            raise _Malformed("turn_order")
        previous = turn.role
    if not any(turn.role == "assistant" for turn in turns[context:]):
        raise _Malformed("no_response")
    if previous != "assistant":
        raise _Malformed("turn_order")
    if not all(turn.content.strip() for turn in turns[context:] if turn.role == "assistant"):
        raise _Malformed("empty_response")
    return Row(tuple(turns), context, "", turns[0].content)


def _alpaca_columns(batch: Batch) -> tuple[Sequence[Any], ...]:
    outputs = batch["output"]
    return batch["instruction"], batch["input"] if "input" in batch else [""] * len(outputs), outputs


_COLUMNS: dict[str, Callable[[Batch], tuple[Sequence[Any], ...]]] = {
    "prompt-completion": lambda batch: (batch["prompt"], batch["completion"]),
    "messages": lambda batch: (batch["messages"],),
    "preference": lambda batch: (batch["prompt" if "prompt" in batch else "conversations"], batch["chosen"]),
    "sharegpt": lambda batch: (batch["conversations"],),
    "alpaca": _alpaca_columns,
    "text": lambda batch: (batch["text"],),
}
_READERS: dict[str, Callable[..., Row]] = {
    "prompt-completion": _prompt_completion_row,
    "messages": _messages_row,
    "preference": _preference_row,
    "sharegpt": _messages_row,
    "alpaca": _alpaca_row,
    "text": _text_row,
}
