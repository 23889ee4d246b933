"""What a model answers when it is asked for a rating: the request's tokens, and the probability of each rating."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_datasel.errors import ModelError
from hf_datasel.formats import Row
from hf_datasel.scoring.logprobs import Forward, Forwards
from hf_datasel.tokens.chat import task_and_answer
from hf_datasel.tokens.sequences import Ragged, Sequence as TokenSequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hf_datasel.scoring.runner import ModelContext

__all__ = ["RATING_PROMPTS", "RatingLogits", "RatingRequest"]

RATING_PROMPTS = (
    "Rate how well the answer does what the task asks for, from 1 (not at all) to {ratings} (completely). Reply with "
    "the number alone.",
    "How useful would this task and its answer be for teaching an assistant to follow instructions? Give one number "
    "from 1 (useless) to {ratings} (excellent), and nothing else.",
    "Judge the answer's correctness, completeness and clarity together. Reply with a single number: 1 is poor, "
    "{ratings} is excellent.",
    "Imagine that this task is yours. On a scale from 1 to {ratings}, how satisfied are you with the answer? Reply "
    "with the number alone.",
    "Between 1 (lowest) and {ratings} (highest), what is the quality of this task and its answer as a whole? Reply "
    "with one number and no explanation.",
)
"""The questions asked by default; `{ratings}` stands for the highest rating."""

_CUE = "\n\nRating:"
_CHUNK = 64
"""Rows whose logits over the whole vocabulary are held at once."""


class RatingRequest:
    """A row and a question about it, as tokens that end where a rating is the next one.

    With a chat template the request is a user's turn and the rating the assistant's whole answer; without one it is
    text that ends in `Rating:`. The tokens of the ratings are those that stand there in the request itself, so that
    it does not matter what else in the vocabulary looks like a digit, or whether a space goes before it.

    Args:
        tokenizer: of the model that rates.
        ratings: the highest rating; the lowest is 1.

    Raises:
        ModelError: a rating is not one token of its own, or the chat template cannot show one question and answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ratings: int):
        self.tokenizer: Any = tokenizer
        self.ratings = ratings
        probes = [
            self._encode([_text("Hello", "Hi", RATING_PROMPTS[0])], rating)[0] for rating in range(1, ratings + 1)
        ]
        self.tokens, self._behind = _rating_tokens(probes, tokenizer.name_or_path)

    def contexts(
        self, rows: Sequence[Row], question: str, max_length: int | None
    ) -> tuple[list[np.ndarray | None], list[str]]:
        """The tokens of the request for each row, and "" or the reason why there are none.

        A row that does not fit into `max_length` tokens loses the end of its response.
        """
        question = question.replace("{ratings}", str(self.ratings))
        parts = [task_and_answer(row) for row in rows]
        found: list[np.ndarray | None] = []
        reasons = []
        encoded = self._encode([_text(prompt, response, question) for prompt, response in parts], 1) if parts else []
        for (prompt, response), ids in zip(parts, encoded, strict=True):
            context = self._before_rating(ids)
            reason = "" if context is not None else "rating_not_found"
            if context is not None and max_length is not None and len(context) > max_length:
                context = self._shortened(prompt, response, question, len(context), max_length)
                reason = "" if context is not None else "prompt_fills_window"
            found.append(context)
            reasons.append(reason)
        return found, reasons

    def _encode(self, texts: list[str], rating: int) -> list[list[int]]:
        if self.tokenizer.chat_template is None:
            asked = [f"{text}{_CUE} {rating}" for text in texts]
            return list(self.tokenizer(asked, verbose=False)["input_ids"])
        from jinja2 import TemplateError

        chats = [[{"role": "user", "content": text}, {"role": "assistant", "content": str(rating)}] for text in texts]
        try:
            rendered = self.tokenizer.apply_chat_template(
                chats, tokenize=True, return_dict=True, tokenizer_kwargs={"verbose": False}
            )
            return list(rendered["input_ids"])
        except TemplateError as error:
            raise ModelError(
                f"The chat template of {self.tokenizer.name_or_path!r} cannot show a question and its answer, so that "
                f"the model cannot be asked for a rating ({error})."
            ) from error

    def _before_rating(self, ids: list[int]) -> np.ndarray | None:
        at = len(ids) - len(self._behind) - 1
        if at < 1 or ids[at:] != [self.tokens[0], *self._behind]:
            return None
        return np.array(ids[:at], dtype=np.int64)

    def _shortened(self, prompt: str, response: str, question: str, length: int, max_length: int) -> np.ndarray | None:
        empty = self._before_rating(self._encode([_text(prompt, "", question)], 1)[0])
        room = max_length - len(empty) if empty is not None else 0
        while empty is not None and room > 0:
            response = response[: len(response) * room // (length - len(empty))]
            if not response.strip():
                break
            context = self._before_rating(self._encode([_text(prompt, response, question)], 1)[0])
            if context is None or len(context) <= max_length:
                return context
            length = len(context)
        return None


def _text(prompt: str, response: str, question: str) -> str:
    return f"### Task\n{prompt}\n\n### Answer\n{response}\n\n### Question\n{question}"


def _rating_tokens(probes: list[list[int]], name: str) -> tuple[np.ndarray, list[int]]:
    """The one token in which requests answered with different ratings differ, in each of them, and what follows it."""
    first = probes[0]
    if all(len(each) == len(first) for each in probes):
        differ = [at for at in range(len(first)) if any(each[at] != first[at] for each in probes)]
        tokens = [each[differ[0]] for each in probes] if len(differ) == 1 else []
        if len(set(tokens)) == len(probes):
            return np.array(tokens, dtype=np.int64), first[differ[0] + 1 :]
    raise ModelError(
        f"The ratings 1 to {len(probes)} are not single tokens, one each, for the tokenizer of {name!r}, so that "
        "their probabilities cannot be read off the next token. Take another model."
    )


class RatingLogits(Forwards):
    """Log-probabilities of rating tokens behind each context: one forward pass, and the LM head on one position each.

    Args:
        context: of the model that rates.
        tokens: ids of the ratings, int64 of shape (ratings,).
    """

    def __init__(self, context: ModelContext, tokens: np.ndarray):
        super().__init__(context.model)
        self.context = context
        self.tokens = tokens

    def rate(self, asked: Ragged, label: str, nulls: Counter[str] | None = None) -> np.ndarray:
        """Log-probability in nats of each rating as the next token, float64 of shape (contexts, ratings).

        Args:
            asked: token ids of the contexts, none of them empty.
            label: for the progress bar.
            nulls: rows that are not asked about, by reason, for the progress bar.
        """
        spec = {"computed": "next_token", "version": 1, "tokens": self.tokens.tolist()}
        return self.context.run(
            lambda batch: self._next(asked, batch),
            asked.lengths,
            len(self.tokens),
            label=label,
            keys=asked.digests,
            spec=spec,
            unit="rating",
            nulls=nulls,
        )

    def _next(self, asked: Ragged, batch: np.ndarray) -> np.ndarray:
        rows = [(ids := asked[at], len(ids)) for at in batch]
        sequences = [TokenSequence(np.append(ids, self.tokens[0]), np.array([length])) for ids, length in rows]
        found: np.ndarray = torch.cat(self.losses(Forward(self, sequences))).double().numpy()
        return found

    def _head(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._of_ratings(self._logits(part)) for part in states.split(_CHUNK)])

    def _whole_model(self, whole: Forward) -> list[torch.Tensor]:
        forward = type(self.causal).forward  # not the instance's: trainers wrap that one, in autocast for example
        more = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(forward).parameters else {}
        found = []
        for sequence in whole.batch:
            ids = torch.from_numpy(sequence.ids[:-1])[None].to(self.device)
            logits = forward(self.causal, input_ids=ids, use_cache=False, **more).logits
            found.append(self._of_ratings(logits[:, -1].float()))
        return found

    def _of_ratings(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.log_softmax(dim=-1)[:, torch.from_numpy(self.tokens).to(logits.device)].cpu()
