"""The tokens of a question behind an example of another row, in pieces that are put together as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_datasel.errors import ModelError
from hf_datasel.formats import Row, alpaca_prompt
from hf_datasel.tokens.chat import task_and_answer
from hf_datasel.tokens.prompts import encoded, started

__all__ = ["Anchor", "OneShotTokens"]

_PROBE = "the question itself"


@dataclass(frozen=True)
class Anchor:
    """The tokens of a task. A sequence is `alone + answer`, or those of an example, then `behind + answer`.

    Attributes:
        alone: the question with nothing before it, int64.
        behind: the question behind an example, int64.
        answer: the tokens that are scored, the same in both, int64.
    """

    alone: np.ndarray
    behind: np.ndarray
    answer: np.ndarray

    def digest(self) -> bytes:
        """16 bytes that stand for the tokens."""
        whole = hashlib.blake2b(digest_size=16)
        for ids in (self.alone, self.behind, self.answer):
            whole.update(len(ids).to_bytes(8, "little") + ids.astype("<i8").tobytes())
        return whole.digest()


class OneShotTokens:
    """Rows as examples and as tasks, in the format of a model.

    With a chat template an example is an earlier turn of the user and the assistant; without one it is text, with a
    blank line behind it. Alpaca rows are then put into the Alpaca prompt, as in training; of others the response
    follows the prompt, on a new line where there is no white space between them. Of several turns the last response
    is the answer, and the turns before it, each with its role, are the question's text.

    An example, a question and an answer are tokenised one by one, each behind a fixed text of the kind that stands
    before it, and their ids are concatenated. So an example has the same ids whatever question follows, and an answer
    the same whether or not an example goes before. The end of turn behind an answer is not part of it.

    Args:
        tokenizer: of the model.

    Raises:
        ModelError: the chat template cannot show a question behind an example.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.chat = tokenizer.chat_template is not None
        self._before = self._example_text("Hello", "Hi")  # stands for any example
        """The text that a question is tokenised behind."""

    def examples(self, rows: Sequence[Row], format: str) -> list[np.ndarray]:
        """Ids of each row as an example, int64.

        Args:
            rows: without a reason.
            format: of the dataset.
        """
        texts = [self._example_text(self._question(row, format), task_and_answer(row)[1]) for row in rows]
        ids = encoded(self.tokenizer, texts) if self.chat else started(self.tokenizer, texts)
        return [np.array(each, dtype=np.int64) for each in ids]

    def anchor(self, row: Row, format: str) -> Anchor:
        """A row without a reason as a task."""
        question, answer = self._question(row, format), task_and_answer(row)[1]
        alone, behind = question, f"\n\n{question}"
        if self.chat:
            alone = self._rendered([_user(question)], prompt=True)
            whole = self._rendered([_user("Hello"), _assistant("Hi"), _user(question)], prompt=True)
            if not whole.startswith(self._before):
                raise self._cannot("it shows an earlier turn differently before another question")
            behind = whole[len(self._before) :]
        first = encoded(self.tokenizer, [alone]) if self.chat else started(self.tokenizer, [alone])
        pieces = first[0], self._behind(self._before, behind), self._behind(alone, answer)
        return Anchor(*(np.array(ids, dtype=np.int64) for ids in pieces))

    def _question(self, row: Row, format: str) -> str:
        """What the user says; without a chat template the whole text up to the answer."""
        question, answer = task_and_answer(row)
        if self.chat:
            return question
        if format == "alpaca":
            return f"{alpaca_prompt(row.instruction, row.input)}\n"
        return question if question[-1:].isspace() or (question and answer[:1].isspace()) else f"{question}\n"

    def _example_text(self, question: str, answer: str) -> str:
        if not self.chat:
            return f"{question}{answer.rstrip()}"
        text = self._rendered([_user(question), _assistant(answer), _user(_PROBE)])
        end = text.rfind(_PROBE)
        if end < 0:
            raise self._cannot("it leaves the question out")
        return text[:end].rstrip()  # white space goes with what follows it, as tokenizers have it

    def _rendered(self, messages: list[dict[str, str]], prompt: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))
        except TemplateError as error:
            raise self._cannot(str(error)) from error

    def _cannot(self, why: str) -> ModelError:
        return ModelError(
            f"The chat template of {self.tokenizer.name_or_path!r} cannot show a question behind an example ({why}), "
            "so that the two cannot be scored together. Take another model, or set tokenizer.chat_template."
        )

    def _behind(self, before: str, text: str) -> list[int]:
        """Ids of the text where it stands behind another; by itself where the two share a token."""
        first, whole = encoded(self.tokenizer, [before, before + text])
        return whole[len(first) :] if whole[: len(first)] == first else encoded(self.tokenizer, [text])[0]


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
