"""Whole rows as the tokens that some other model reads, also with another answer in them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hf_datasel.formats import Row, Turn
from hf_datasel.tokens.turns import common_prefix

__all__ = ["Chats", "ending_tokens", "task_and_answer", "with_answer"]


class Chats:
    """Whole rows as tokens: through the tokenizer's chat template, else as text with its own special tokens.

    Args:
        tokenizer: of the model that reads them. It stays as it is.
        max_length: tokens that a row may have.
    """

    def __init__(self, tokenizer: Any, max_length: int | None = None):
        self.tokenizer = _without_limits(tokenizer)
        self.max_length = max_length

    def tokens(self, rows: Sequence[Row]) -> tuple[list[np.ndarray | None], list[str]]:
        """The tokens of each row, int64, and "" or the reason why there are none.

        A row that is too long loses the end of its last response; what the template puts behind a response is kept.
        """
        texts = [self._text(row) for row in rows]
        shown = [text for text in texts if text is not None]
        encoded = iter(self._encode(shown) if shown else [])
        found: list[np.ndarray | None] = []
        reasons = []
        for row, text in zip(rows, texts, strict=True):
            ids = next(encoded) if text is not None else None
            reason = "template_refuses" if ids is None else "" if ids else "empty_text"
            if ids and self.max_length is not None and len(ids) > self.max_length:
                ids = self._shortened(row, ids, self.max_length)
                reason = "" if ids is not None else "prompt_fills_window"
            found.append(np.array(ids, dtype=np.int64) if ids is not None and not reason else None)
            reasons.append(reason)
        return found, reasons

    def _text(self, row: Row) -> str | None:
        """The row as text; None where the template refuses to show it."""
        from jinja2 import TemplateError

        if self.tokenizer.chat_template is None:
            return "\n".join(turn.content for turn in row.turns)
        chat = [{"role": turn.role, "content": turn.content} for turn in row.turns]
        try:
            return str(self.tokenizer.apply_chat_template(chat, tokenize=False))
        except TemplateError:
            return None

    def _encode(self, texts: list[str]) -> list[list[int]]:
        special = self.tokenizer.chat_template is None  # a template writes them itself
        return list(self.tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"])

    def _shortened(self, row: Row, ids: list[int], max_length: int) -> list[int] | None:
        span = self.answer_span(row, ids)
        if span is None:
            return None
        start, behind = span
        kept = max_length - behind
        return ids[:kept] + ids[len(ids) - behind :] if kept > start else None

    def answer_span(self, row: Row, ids: list[int]) -> tuple[int, int] | None:
        """Where the last response starts in the row's tokens, and how many tokens stand behind it.

        Told by two other responses in its place; None where the template does not show them.
        """
        texts = [self._text(with_answer(row, answer)) for answer in "AB"]
        if None in texts:
            return None
        one, other = self._encode([text for text in texts if text is not None])
        if one == other:
            return None
        behind = common_prefix(one[::-1], other[::-1])
        if behind and ids[-behind:] != one[-behind:]:
            behind = 0
        return min(common_prefix(ids, one), common_prefix(ids, other)), behind


def _without_limits(tokenizer: Any) -> Any:
    """The tokenizer, or a copy of it where its file says to cut or pad: switching that off would change it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or (backend.truncation is None and backend.padding is None):
        return tokenizer
    plain = copy.deepcopy(tokenizer)
    plain.backend_tokenizer.no_truncation()
    plain.backend_tokenizer.no_padding()
    return plain


def ending_tokens(tokenizer: Any) -> set[int]:
    """The tokens that end an answer: EOS, and what the chat template puts right behind one, if that is special."""
    found = set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}
    if tokenizer.chat_template is None:
        return found
    chats, row = Chats(tokenizer), Row((Turn("user", "Hello"), Turn("assistant", "Hi there")))
    [ids], _ = chats.tokens([row])
    span = chats.answer_span(row, ids.tolist()) if ids is not None else None
    if ids is None or span is None or not span[1]:
        return found
    special = {at for at, token in tokenizer.added_tokens_decoder.items() if token.special}
    return found | ({int(ids[-span[1]])} & (special | set(tokenizer.all_special_ids)))


def with_answer(row: Row, answer: str) -> Row:
    """The row with this text as its last response."""
    return replace(row, turns=(*row.turns[:-1], Turn(row.turns[-1].role, answer)))


def task_and_answer(row: Row) -> tuple[str, str]:
    """What stands before the last response, and that response; of several turns, each with its role."""
    *before, last = row.turns
    if len(before) == 1:
        return before[0].content, last.content
    return "\n\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in before), last.content
