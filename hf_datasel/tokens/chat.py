"""Tokenization of complete rows for models other than the one in training, also with another response."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hf_datasel.formats import Row, Turn
from hf_datasel.tokens.turns import common_prefix

__all__ = ["ChatTokenizer", "end_token_ids", "prompt_and_response", "replace_response"]


class ChatTokenizer:
    """Tokenizes complete rows with the chat template, or as text with special tokens if there is no template.

    Args:
        tokenizer: Tokenizer of the model that reads the rows. It is not modified.
        max_length: Maximum number of tokens per row.
    """

    def __init__(self, tokenizer: Any, max_length: int | None = None):
        self.tokenizer = _without_limits(tokenizer)
        self.max_length = max_length

    def encode(self, rows: Sequence[Row]) -> tuple[list[np.ndarray | None], list[str]]:
        """Tokenize rows.

        Rows that are too long are truncated at the end of their last response; the tokens that the template adds after
        the response are kept.

        Args:
            rows: Rows without a reason.

        Returns:
            Token ids of each row, int64, or None; and the reason why a row has none, or "".
        """
        texts = [self._text(row) for row in rows]
        rendered = [text for text in texts if text is not None]
        encoded = iter(self._encode(rendered) if rendered else [])
        results: list[np.ndarray | None] = []
        reasons = []
        for row, text in zip(rows, texts, strict=True):
            ids = next(encoded) if text is not None else None
            reason = "template_refuses" if ids is None else "" if ids else "empty_text"
            if ids and self.max_length is not None and len(ids) > self.max_length:
                ids = self._truncated(row, ids, self.max_length)
                reason = "" if ids is not None else "prompt_fills_window"
            results.append(np.array(ids, dtype=np.int64) if ids is not None and not reason else None)
            reasons.append(reason)
        return results, reasons

    def _text(self, row: Row) -> str | None:
        """Return the row as text, or None if the template cannot render it."""
        from jinja2 import TemplateError

        if self.tokenizer.chat_template is None:
            return "\n".join(turn.content for turn in row.turns)
        chat = [{"role": turn.role, "content": turn.content} for turn in row.turns]
        try:
            return str(self.tokenizer.apply_chat_template(chat, tokenize=False))
        except TemplateError:
            return None

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
    return replace(row, turns=(*row.turns[:-1], Turn(row.turns[-1].role, response)))


def prompt_and_response(row: Row) -> tuple[str, str]:
    """Return the text before the last response, with role names if it has several turns, and the response."""
    *before, last = row.turns
    if len(before) == 1:
        return before[0].content, last.content
    return "\n\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in before), last.content
