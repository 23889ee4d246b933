"""One-shot prompts: the tokens of an example, of the question after it, and of the answer to score."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_datasel.errors import ModelError
from hf_datasel.formats import Row, alpaca_prompt
from hf_datasel.tokens.chat import prompt_and_response
from hf_datasel.tokens.prompts import encode_prompts, encode_texts

__all__ = ["AnchorTokens", "OneShotPrompts"]

_PROBE = "the question itself"


@dataclass(frozen=True)
class AnchorTokens:
    """Tokens of an anchor task.

    The zero-shot sequence is `alone + answer`, the one-shot sequence an example, then `after_example + answer`.

    Args:
        alone: Question at the start of a sequence, int64.
        after_example: Question after an example, int64.
        answer: Tokens that are scored, the same in both sequences, int64.
    """

    alone: np.ndarray
    after_example: np.ndarray
    answer: np.ndarray

    def digest(self) -> bytes:
        """Return a digest of the tokens, 16 bytes."""
        digest = hashlib.blake2b(digest_size=16)
        for ids in (self.alone, self.after_example, self.answer):
            digest.update(len(ids).to_bytes(8, "little") + ids.astype("<i8").tobytes())
        return digest.digest()


class OneShotPrompts:
    """Tokenizes rows as examples and as anchor tasks, in the format of a model.

    With a chat template an example is an earlier turn of the user and the assistant; without one it is text followed
    by a blank line. Alpaca rows are then formatted with the Alpaca prompt, as in training; in other formats the
    response follows the prompt, on a new line if there is no white space between them. In a row with several turns the
    last response is the answer, and the turns before it, each with its role, are the text of the question.

    An example, a question and an answer are tokenized separately, each after a fixed text of the kind that comes
    before it, and their ids are concatenated. An example thus has the same ids whatever question follows, and an
    answer has the same ids with or without an example. The end of turn after an answer is not part of it.

    Args:
        tokenizer: Tokenizer of the model.

    Raises:
        ModelError: The chat template cannot render a question after an example.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.chat = tokenizer.chat_template is not None
        self._before = self._example_text("Hello", "Hi")  # questions are tokenized after this example

    def examples(self, rows: Sequence[Row], row_format: str) -> list[np.ndarray]:
        """Tokenize rows as examples.

        Args:
            rows: Usable rows.
            row_format: Format of the dataset.

        Returns:
            Token ids of each row, int64.
        """
        texts = [self._example_text(self._question(row, row_format), prompt_and_response(row)[1]) for row in rows]
        batch = encode_texts(self.tokenizer, texts) if self.chat else encode_prompts(self.tokenizer, texts)
        return [np.array(ids, dtype=np.int64) for ids in batch]

    def anchor(self, row: Row, row_format: str) -> AnchorTokens:
        """Tokenize a row as an anchor task.

        Args:
            row: Usable row.
            row_format: Format of its dataset.
        """
        question, answer = self._question(row, row_format), prompt_and_response(row)[1]
        alone, after_example = question, f"\n\n{question}"
        if self.chat:
            alone = self._render([_user(question)], prompt=True)
            full = self._render([_user("Hello"), _assistant("Hi"), _user(question)], prompt=True)
            if not full.startswith(self._before):
                raise self._error("it renders an earlier turn differently before another question")
            after_example = full[len(self._before) :]
        first = encode_texts(self.tokenizer, [alone]) if self.chat else encode_prompts(self.tokenizer, [alone])
        parts = first[0], self._encode_after(self._before, after_example), self._encode_after(alone, answer)
        return AnchorTokens(*(np.array(ids, dtype=np.int64) for ids in parts))

    def _question(self, row: Row, row_format: str) -> str:
        """Return the user's message; without a chat template the complete text before the answer."""
        question, answer = prompt_and_response(row)
        if self.chat:
            return question
        if row_format in ("alpaca", "instruction-response") and len(row.turns) == 2 and not row.tools:
            return f"{alpaca_prompt(row.instruction, row.input)}\n"
        return question if question[-1:].isspace() or (question and answer[:1].isspace()) else f"{question}\n"

    def _example_text(self, question: str, answer: str) -> str:
        if not self.chat:
            return f"{question}{answer.rstrip()}"
        text = self._render([_user(question), _assistant(answer), _user(_PROBE)])
        end = text.rfind(_PROBE)
        if end < 0:
            raise self._error("it omits the question")
        return text[:end].rstrip()  # tokenizers merge white space with what follows it

    def _render(self, messages: list[dict[str, str]], prompt: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))
        except TemplateError as error:
            raise self._error(str(error)) from error

    def _error(self, reason: str) -> ModelError:
        return ModelError(
            f"The chat template of {self.tokenizer.name_or_path!r} cannot render a question after an example "
            f"({reason}), so that the two cannot be scored together. Use another model, or set "
            "tokenizer.chat_template."
        )

    def _encode_after(self, before: str, text: str) -> list[int]:
        """Tokenize a text that follows another one; on its own if the two share a token."""
        first, both = encode_texts(self.tokenizer, [before, before + text])
        return both[len(first) :] if both[: len(first)] == first else encode_texts(self.tokenizer, [text])[0]


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
