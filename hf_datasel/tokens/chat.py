"""Tokenization of complete rows for models other than the one in training, also with another response."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from hf_datasel.formats import Row, Turn
from hf_datasel.formats.messages import with_text_arguments
from hf_datasel.tokens.tool_calls import CallRendering, call_rendering, is_only_calls, unrendered_message
from hf_datasel.tokens.turns import common_prefix
from hf_datasel.tokens.valid_rows import error_message

__all__ = ["ChatTokenizer", "end_token_ids", "prompt_and_response", "replace_response", "strip_response"]


class ChatTokenizer:
    """Tokenizes rows up to their last response with the chat template, or as text with special tokens.

    Text is what a tokenizer without a template gets. The template receives the messages with all their keys, the tools
    and the arguments of the row.

    Args:
        tokenizer: Tokenizer of the model that reads the rows. It is not modified.
        max_length: Maximum number of tokens per row.

    Attributes:
        messages: Message of the first error of the chat template or the tokenizer, by the reason `template_error`.
    """

    def __init__(self, tokenizer: Any, max_length: int | None = None):
        self.tokenizer = _without_limits(tokenizer)
        self.max_length = max_length
        self.messages: dict[str, str] = {}

    def encode(self, rows: Sequence[Row]) -> tuple[list[np.ndarray | None], list[str]]:
        """Tokenize rows.

        Rows that are too long are truncated at the end of their last response; the tokens that the template adds after
        the response are kept.

        Args:
            rows: Rows without a reason.

        Returns:
            Token ids of each row, int64, or None; and the reason why a row has none, or "".
        """
        results: list[np.ndarray | None] = []
        reasons = []
        for row, ids in zip(rows, self._try_encode([self._text(row) for row in rows]), strict=True):
            reason = "template_error" if ids is None else "" if ids else "empty_text"
            if ids and self.max_length is not None and len(ids) > self.max_length:
                ids = self._truncated(row, ids, self.max_length)
                reason = "" if ids is not None else "prompt_fills_window"
            results.append(np.array(ids, dtype=np.int64) if ids is not None and not reason else None)
            reasons.append(reason)
        return results, reasons

    def _text(self, row: Row) -> str | None:
        """Return the row up to its last response as text, or None if the template cannot render it."""
        num_turns = row.response_turns[-1] + 1
        if self.tokenizer.chat_template is None:
            return "\n".join(turn.content for turn in row.turns[:num_turns])
        kwargs = {"tools": row.tools, **(row.chat_template_kwargs or {})}
        messages = row.messages[:num_turns]
        if any(message.get("tool_calls") for message in messages):
            hides_calls = not self._call_rendering.renders_calls
            if hides_calls and any(is_only_calls(messages[position]) for position in row.response_turns):
                self.messages.setdefault("template_error", unrendered_message(self.tokenizer))
                return None
            messages = with_text_arguments(messages) if self._call_rendering.text_arguments else messages
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **kwargs))
        except Exception as error:  # chat templates raise errors of any kind
            self.messages.setdefault("template_error", error_message(error))
            return None

    @cached_property
    def _call_rendering(self) -> CallRendering:
        return call_rendering(self.tokenizer)

    def _try_encode(self, texts: Sequence[str | None]) -> list[list[int] | None]:
        """Return the token ids of texts, None for a text that is None or cannot be tokenized."""
        present = [text for text in texts if text is not None]
        try:
            encoded = iter(self._encode(present) if present else [])
            return [None if text is None else next(encoded) for text in texts]
        except Exception as error:
            if len(texts) == 1:
                self.messages.setdefault("template_error", error_message(error))
                return [None]
        return [ids for text in texts for ids in self._try_encode([text])]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        special = self.tokenizer.chat_template is None  # a chat template adds its own special tokens
        return list(self.tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"])

    def _truncated(self, row: Row, ids: list[int], max_length: int) -> list[int] | None:
        span = self.response_span(row, ids)
        if span is None:
            return None
        start, num_after = span
        stop = max_length - num_after
        return ids[:stop] + ids[len(ids) - num_after :] if stop > start else None

    def response_span(self, row: Row, ids: list[int]) -> tuple[int, int] | None:
        """Find the last response in the tokens of a row, by comparing renderings with two other responses.

        Args:
            row: The row.
            ids: Its token ids.

        Returns:
            Index of the first token of the response, and number of tokens after the response; None if the template
            does not render the response.
        """
        texts = [self._text(replace_response(row, answer)) for answer in "AB"]
        if None in texts:
            return None
        first, second = self._encode([text for text in texts if text is not None])
        if first == second:
            return None
        num_after = common_prefix(first[::-1], second[::-1])
        if num_after and ids[-num_after:] != first[-num_after:]:
            num_after = 0
        return min(common_prefix(ids, first), common_prefix(ids, second)), num_after


def _without_limits(tokenizer: Any) -> Any:
    """Return the tokenizer, or a copy without truncation and padding if its file sets them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or (backend.truncation is None and backend.padding is None):
        return tokenizer
    plain = copy.deepcopy(tokenizer)
    plain.backend_tokenizer.no_truncation()
    plain.backend_tokenizer.no_padding()
    return plain


def end_token_ids(tokenizer: Any) -> set[int]:
    """Return the ids of the tokens that end a response.

    These are EOS and the token that the chat template adds directly after a response, if it is a special token.
    """
    end_ids = set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}
    if tokenizer.chat_template is None:
        return end_ids
    chats, row = ChatTokenizer(tokenizer), Row((Turn("user", "Hello"), Turn("assistant", "Hi there")))
    [ids], _ = chats.encode([row])
    span = chats.response_span(row, ids.tolist()) if ids is not None else None
    if ids is None or span is None or not span[1]:
        return end_ids
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return end_ids | ({int(ids[-span[1]])} & (special | set(tokenizer.all_special_ids)))


def replace_response(row: Row, response: str) -> Row:
    """Return the row with this text as its last response."""
    last = row.response_turns[-1]
    return replace(row, turns=(*row.turns[:last], Turn(row.turns[last].role, response), *row.turns[last + 1 :]))


def prompt_and_response(row: Row) -> tuple[str, str]:
    """Return the text before the last response, with role names if it has several turns, and the response.

    The text of a row with tools begins with them, as JSON.
    """
    *before, last = row.turns[: row.response_turns[-1] + 1]
    if len(before) == 1 and not row.tools:
        return before[0].content, last.content
    tools = [f"Tools: {json.dumps(row.tools, ensure_ascii=False, sort_keys=True)}"] if row.tools else []
    turns = [f"{turn.role.capitalize()}: {turn.content}" for turn in before]
    return "\n\n".join([*tools, *turns]), last.content


def strip_response(row: Row) -> Row:
    """Return the row without the white space around its last response; keys besides the content stay."""
    last = row.response_turns[-1]
    turn = row.turns[last]
    message = turn.message and {**turn.message, "content": str(turn.message["content"]).strip()}
    stripped = replace(turn, content=turn.content.strip(), message=message)
    return replace(row, turns=(*row.turns[:last], stripped, *row.turns[last + 1 :]))
