"""Rating prompts: their tokens, and the probability that a model gives to each rating."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel._lazy import torch
from hf_datasel.errors import ModelError
from hf_datasel.formats import Row
from hf_datasel.scoring.logprobs import Forward, LogprobRunner
from hf_datasel.tokens.chat import prompt_and_response
from hf_datasel.tokens.sequences import RaggedArray, Sequence as TokenSequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hf_datasel.scoring.runner import ModelRunner

__all__ = ["RATING_PROMPTS", "RatingPrompts", "RatingRunner"]

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
"""Default questions; `{ratings}` is replaced by the highest rating."""

_CUE = "\n\nRating:"
_CHUNK = 64
"""Number of rows whose logits over the vocabulary are in memory at once."""


class RatingPrompts:
    """Tokenizes a row and a question about it, up to where the rating is the next token.

    With a chat template the request is a user turn and the rating the complete answer of the assistant; without one
    the request is text that ends in `Rating:`. The tokens of the ratings are those that the tokenizer produces at this
    position, so it does not matter which other tokens look like digits, or whether a space precedes them.

    Args:
        tokenizer: Tokenizer of the model that rates.
        ratings: Highest rating; the lowest is 1.

    Attributes:
        tokens: Token ids of the ratings, int64 of shape (ratings,).

    Raises:
        ModelError: A rating is not a single token of its own, or the chat template cannot render a question and its
            answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ratings: int):
        self.tokenizer: Any = tokenizer
        self.ratings = ratings
        probes = [
            self._encode([_text("Hello", "Hi", RATING_PROMPTS[0])], rating)[0] for rating in range(1, ratings + 1)
        ]
        self.tokens, self._suffix = _rating_tokens(probes, tokenizer.name_or_path)

    def encode_rows(
        self, rows: Sequence[Row], question: str, max_length: int | None
    ) -> tuple[list[np.ndarray | None], list[str]]:
        """Tokenize the request for each row.

        Args:
            rows: Usable rows.
            question: The question; `{ratings}` is replaced by the highest rating.
            max_length: Maximum number of tokens. The end of the response is removed from a row that has more.

        Returns:
            The token ids of each request, int64, or None; and the reason for None: "rating_not_found",
            "prompt_fills_window" or "".
        """
        question = question.replace("{ratings}", str(self.ratings))
        parts = [prompt_and_response(row) for row in rows]
        requests: list[np.ndarray | None] = []
        reasons = []
        encoded = self._encode([_text(prompt, response, question) for prompt, response in parts], 1) if parts else []
        for (prompt, response), ids in zip(parts, encoded, strict=True):
            request = self._before_rating(ids)
            reason = "" if request is not None else "rating_not_found"
            if request is not None and max_length is not None and len(request) > max_length:
                request = self._truncated(prompt, response, question, len(request), max_length)
                reason = "" if request is not None else "prompt_fills_window"
            requests.append(request)
            reasons.append(reason)
        return requests, reasons

    def _encode(self, texts: list[str], rating: int) -> list[list[int]]:
        if self.tokenizer.chat_template is None:
            requests = [f"{text}{_CUE} {rating}" for text in texts]
            return list(self.tokenizer(requests, verbose=False)["input_ids"])
        from jinja2 import TemplateError

        chats = [[{"role": "user", "content": text}, {"role": "assistant", "content": str(rating)}] for text in texts]
        try:
            rendered = self.tokenizer.apply_chat_template(
                chats, tokenize=True, return_dict=True, tokenizer_kwargs={"verbose": False}
            )
            return list(rendered["input_ids"])
        except TemplateError as error:
            raise ModelError(
                f"The chat template of {self.tokenizer.name_or_path!r} cannot render a question and its answer, so "
                f"that the model cannot be asked for a rating ({error})."
            ) from error

    def _before_rating(self, ids: list[int]) -> np.ndarray | None:
        position = len(ids) - len(self._suffix) - 1
        if position < 1 or ids[position:] != [self.tokens[0], *self._suffix]:
            return None
        return np.array(ids[:position], dtype=np.int64)

    def _truncated(self, prompt: str, response: str, question: str, length: int, max_length: int) -> np.ndarray | None:
        without_response = self._before_rating(self._encode([_text(prompt, "", question)], 1)[0])
        if without_response is None:
            return None
        max_tokens = max_length - len(without_response)
        while max_tokens > 0:
            response = response[: len(response) * max_tokens // (length - len(without_response))]
            if not response.strip():
                break
            request = self._before_rating(self._encode([_text(prompt, response, question)], 1)[0])
            if request is None or len(request) <= max_length:
                return request
            length = len(request)
        return None


def _text(prompt: str, response: str, question: str) -> str:
    return f"### Task\n{prompt}\n\n### Answer\n{response}\n\n### Question\n{question}"


def _rating_tokens(probes: list[list[int]], name: str) -> tuple[np.ndarray, list[int]]:
    """Return the token ids of the ratings, and the ids after a rating, from the same request with each rating."""
    first = probes[0]
    if all(len(ids) == len(first) for ids in probes):
        differing = [index for index in range(len(first)) if any(ids[index] != first[index] for ids in probes)]
        tokens = [ids[differing[0]] for ids in probes] if len(differing) == 1 else []
        if len(set(tokens)) == len(probes):
            return np.array(tokens, dtype=np.int64), first[differing[0] + 1 :]
    raise ModelError(
        f"The tokenizer of {name!r} does not encode the ratings 1 to {len(probes)} as one token each, so that their "
        "probabilities cannot be read from the next token. Use another model."
    )


class RatingRunner(LogprobRunner):
    """Computes log-probabilities of rating tokens, with one forward pass per request and the head on one position.

    Args:
        runner: Runner of the model that rates.
        tokens: Token ids of the ratings, int64 of shape (ratings,).
    """

    def __init__(self, runner: ModelRunner, tokens: np.ndarray):
        super().__init__(runner.model)
        self.runner = runner
        self.tokens = tokens

    def rate(self, requests: RaggedArray, label: str, nulls: Counter[str] | None = None) -> np.ndarray:
        """Compute the log-probability of each rating as the next token.

        Args:
            requests: Token ids of the requests, none of them empty.
            label: Label of the progress bar.
            nulls: Number of rows without a request by reason, for the progress bar.

        Returns:
            Nats, float64 of shape (requests, ratings).
        """
        self.runner.check_tokens(requests)
        spec = {"computed": "next_token", "version": 1, "tokens": self.tokens.tolist()}
        return self.runner.run(
            lambda batch: self._next_token(requests, batch),
            requests.lengths,
            len(self.tokens),
            label=label,
            keys=requests.digests,
            spec=spec,
            unit="rating",
            nulls=nulls,
        )

    def _next_token(self, requests: RaggedArray, batch: np.ndarray) -> np.ndarray:
        ids = [requests[index] for index in batch]
        sequences = [TokenSequence(np.append(row, self.tokens[0]), np.array([len(row)])) for row in ids]
        logprobs: np.ndarray = torch.cat(self.losses(Forward(self, sequences))).double().numpy()
        return logprobs

    def _head(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._rating_logprobs(self._logits(part)) for part in states.split(_CHUNK)])

    def _by_whole_model(self, forward: Forward) -> list[torch.Tensor]:
        model_forward = type(self.causal).forward  # not the instance's, which trainers wrap, in autocast for example
        kwargs = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model_forward).parameters else {}
        logprobs = []
        for sequence in forward.batch:
            ids = torch.from_numpy(sequence.ids[:-1])[None].to(self.device)
            logits = model_forward(self.causal, input_ids=ids, use_cache=False, **kwargs).logits
            logprobs.append(self._rating_logprobs(logits[:, -1].float()))
        return logprobs

    def _rating_logprobs(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.log_softmax(dim=-1)[:, torch.from_numpy(self.tokens).to(logits.device)].cpu()
