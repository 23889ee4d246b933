"""Canonical form of a row, whatever its row format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any, Literal

from hf_datasel.errors import FormatError

__all__ = ["TOKENS", "Batch", "Part", "Row", "Turn", "no_text", "text_digest", "turn_json"]

Part = Literal["prompt", "response", "both"]
Batch = Mapping[str, Sequence[Any]]

TOKENS = "tokens"
"""Role of the only turn of a row that is tokenized already."""

_encode_sorted = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


def no_text(subject: str = "") -> FormatError:
    """Return the error for reading the text of rows that are tokenized already.

    Args:
        subject: What reads it, such as the name of a score.
    """
    return FormatError(
        f"{f'{subject} reads the text of rows, and these are' if subject else 'These rows are'} tokenized already: "
        "they have token ids (column 'input_ids') and no text. Remove that column from rows that have text as well, "
        "or name the columns of the text with columns={'prompt': ..., 'completion': ...}; or use what needs no text: "
        "Random, Top by a column, or scores of tokens, such as Loss, IFD or Length(unit='tokens')."
    )


def turn_json(role: str, content: str, is_response: bool) -> str:
    r"""Return the JSON text of a turn in the canonical content of a row, as `json.dumps` writes it.

    Args:
        role: Role of the turn.
        content: Text of the turn.
        is_response: Whether it is a response.

    >>> print(turn_json("user", 'Say "a".', False))
    ["user", "Say \"a\".", false]
    """
    flag = "true" if is_response else "false"
    return f"[{encode_basestring(role)}, {encode_basestring(content)}, {flag}]"


def text_digest(content: str) -> bytes:
    """Return the SHA-256 (32 bytes) of the JSON text of the canonical content of a row."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation.

    Args:
        role: Role as in chat templates.
        content: Text of the message for scores that read text: thinking, content and tool calls as JSON, on a line
            each; what is absent is omitted.
        message: The message that a chat template receives, with all its keys but loss flags, text parts joined, and
            arguments of tool calls as mappings; without nulls, but for those in arguments that the dataset has as JSON
            text. None if it is just the role and the content.
        trained: Whether the loss covers the turn if it is a response; False if a loss flag excludes it.
    """

    role: str
    content: str
    message: dict[str, Any] | None = None
    trained: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """Canonical form of a row, whatever its row format.

    Args:
        turns: All messages of the row.
        context: Index of the first turn that is trained on; assistant turns from there on are the responses, except
            those that a loss flag excludes.
        reason: Empty for a row that can be scored, otherwise one word that says why it cannot.
        instruction: Alpaca instruction, the prompt, or the first message.
        input: Alpaca input, which the published IFD prompts render separately.
        tools: Tools that a chat template receives; None for none.
        chat_template_kwargs: Further arguments of the chat template; None for none.
        detail: For a row with a reason: the column or message, what it holds, and what to do.
    """

    turns: tuple[Turn, ...] = ()
    context: int = 0
    reason: str = ""
    instruction: str = ""
    input: str = ""
    tools: list[Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    detail: str = ""

    @property
    def response_turns(self) -> list[int]:
        """Positions of the responses among the turns; none for a malformed row."""
        return [
            position
            for position in range(self.context, len(self.turns))
            if self.turns[position].role == "assistant" and self.turns[position].trained
        ]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Messages that a chat template receives; none for a malformed row."""
        if self.reason:
            return []
        return [turn.message or {"role": turn.role, "content": turn.content} for turn in self.turns]

    @property
    def response(self) -> str:
        """Text of all responses, one per line; empty for a malformed row."""
        self._check_text()
        turns = self.turns[self.context :]
        return "\n".join([turn.content for turn in turns if turn.role == "assistant" and turn.trained])

    @property
    def prompt(self) -> str:
        """Text of all other turns, one per line; empty for a malformed row."""
        if self.reason:
            return ""
        self._check_text()
        responses = set(self.response_turns)
        return "\n".join(turn.content for position, turn in enumerate(self.turns) if position not in responses)

    @property
    def single_turn(self) -> bool:
        """Whether the row is one user turn and one assistant turn of text, as the published IFD prompts require."""
        return [turn.role for turn in self.turns] == ["user", "assistant"] and self.only_text

    @property
    def only_text(self) -> bool:
        """Whether role and content are all that a chat template receives."""
        if self.tools or self.chat_template_kwargs:
            return False
        for turn in self.turns:  # noqa: SIM110, a generator takes longer
            if turn.message is not None:
                return False
        return True

    def _check_text(self) -> None:
        if self.turns and self.turns[0].role == TOKENS:
            raise no_text()

    def text(self, part: Part) -> str:
        """Return `prompt`, `response`, or both joined by a newline."""
        if part == "both":
            return f"{self.prompt}\n{self.response}"
        return self.prompt if part == "prompt" else self.response

    def questions_and_responses(self) -> list[tuple[str, str]]:
        """Return pairs of a question and the response to it; a greeting before the first question answers none."""
        pairs, responses = list[tuple[str, str]](), set(self.response_turns)
        questions, is_answered = list[str](), False
        for number, turn in enumerate(self.turns):
            if turn.role == "assistant":
                pairs += [("\n".join(questions), turn.content)] if number in responses and questions else []
                is_answered = True
            elif turn.role not in ("system", "developer"):
                questions, is_answered = [*([] if is_answered else questions), turn.content], False
        return pairs

    def digest(self) -> bytes:
        """Return the SHA-256 (32 bytes) of the canonical content, the id of the row in every format.

        It covers the turns, which of them are responses, and all that a chat template receives besides.
        """
        turns = [
            turn_json(turn.role, turn.content, turn.role == "assistant" and turn.trained and position >= self.context)
            for position, turn in enumerate(self.turns)
        ]
        if 0 < self.context < len(self.turns) and self.turns[self.context].role != "assistant":
            turns.append(_encode_sorted(["completion", self.context]))  # its first turn gets labels too
        content = f"[{', '.join(turns)}]"
        if not self.only_text:
            others = {
                "messages": [turn.message for turn in self.turns],
                "tools": self.tools,
                "chat_template_kwargs": self.chat_template_kwargs,
            }  # sorted, because Arrow orders the keys of a mapping by their first appearance in a column
            content = f'{_encode_sorted(others)[:-1]}, "turns": {content}}}'  # the last of the keys
        return text_digest(content)
