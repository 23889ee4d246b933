"""What an endpoint is asked for: the answers of a chat model, and vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hf_datasel.errors import ConfigError, ScoreError
from hf_datasel.scoring.endpoint.client import Answer, Endpoint

__all__ = ["Completion", "chat", "embed"]


class Completion(NamedTuple):
    """What a chat model answered, and whether the answer ends early, at the limit of tokens."""

    text: str
    cut: bool


def chat(
    endpoint: Endpoint, requests: Sequence[str], max_tokens: int | None = None, temperature: float | None = None
) -> list[Answer]:
    """What the model says to each request, a user's turn: a `Completion` each. What is None is not sent along.

    Raises:
        ScoreError: as `Endpoint.ask`.
    """
    model = None if endpoint.base_url is None else endpoint.model

    def send(request: str) -> tuple[Completion, int | None]:
        turns = [{"role": "user", "content": request}]
        found: Any = endpoint.client.chat_completion(
            turns, model=model, max_tokens=max_tokens, temperature=temperature
        )
        if not isinstance(found.choices, list):
            raise ValueError(f"no chat completion, but {str(dict(found))[:200]}")
        first = found.choices[0] if found.choices else None
        text = getattr(getattr(first, "message", None), "content", None)
        cut = getattr(first, "finish_reason", None) == "length"
        return Completion(text if isinstance(text, str) else "", cut), _cost(found.usage)

    return endpoint.ask(send, [request.encode("utf-8", "replace").decode() for request in requests])


def embed(
    endpoint: Endpoint, texts: Sequence[str], batch_size: int = 32, dimensions: int | None = None
) -> tuple[np.ndarray, list[str]]:
    """A vector for each text, and "" or the reason why there is none.

    Args:
        endpoint: one with a `base_url`.
        texts: not empty.
        batch_size: texts in a request; servers take so many at most. One that is refused
            is sent again in halves.
        dimensions: of the vectors, where the model can shorten them.

    Returns:
        Float32 of shape (texts, numbers), NaN where a text has none (of width 0 where none has any), and the reasons.

    Raises:
        ScoreError: as `Endpoint.ask`, or the vectors are of several lengths.
    """
    if endpoint.base_url is None:
        raise ConfigError("Vectors come from an endpoint with a base_url.")
    more = {} if dimensions is None else {"dimensions": dimensions}

    def send(part: list[int]) -> tuple[np.ndarray, int | None]:
        inputs = [texts[at].encode("utf-8", "replace").decode() for at in part]
        body = {"model": endpoint.model, "input": inputs, "encoding_format": "float", **more}
        answer = endpoint.post("embeddings", body)
        by_index = {each.get("index", at): each["embedding"] for at, each in enumerate(answer["data"])}
        vectors = np.array([by_index[at] for at in range(len(part))], dtype=np.float32)
        if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
            raise ValueError("no vectors of finite numbers")
        return vectors, _cost(answer.get("usage"))

    waiting = [list(range(len(texts)))[at : at + batch_size] for at in range(0, len(texts), batch_size)]
    found: dict[int, np.ndarray] = {}
    reasons = ["no_answer"] * len(texts)
    while waiting and not (found and endpoint.has_failed):  # what was answered before a failure is given
        refused = []
        for part, answer in zip(waiting, endpoint.ask(send, waiting, lambda part: len(part) > 1), strict=True):
            if not answer.reason:
                found.update(zip(part, answer.value, strict=True))
            elif answer.reason == "refused" and len(part) > 1:
                refused += [part[: len(part) // 2], part[len(part) // 2 :]]
                continue
            for at in part:
                reasons[at] = answer.reason
        waiting = refused
    widths = {len(each) for each in found.values()}
    if len(widths) > 1:
        raise ScoreError(f"{endpoint.place} gives vectors of {sorted(widths)} numbers.")
    vectors = np.full((len(texts), max(widths, default=0)), np.nan, dtype=np.float32)
    for at, each in found.items():
        vectors[at] = each
    return vectors, reasons


def _cost(usage: Any) -> int | None:
    """Tokens of prompt and completion, where the server says."""
    names = ("prompt_tokens", "completion_tokens")
    counts = [usage.get(name) or 0 for name in names] if isinstance(usage, dict) else []
    return sum(counts) if any(counts) and all(type(each) is int and each >= 0 for each in counts) else None
