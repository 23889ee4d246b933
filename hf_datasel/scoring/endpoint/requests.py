"""Requests to an endpoint: chat completions and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hf_datasel.errors import ConfigError, ScoreError
from hf_datasel.scoring.endpoint.client import Answer, Endpoint

__all__ = ["Completion", "chat", "embed"]


class Completion(NamedTuple):
    """Answer of a chat model.

    Attributes:
        text: Text of the answer.
        truncated: Whether the answer ends early, at the maximum number of tokens.
    """

    text: str
    truncated: bool


def chat(
    endpoint: Endpoint, requests: Sequence[str], max_tokens: int | None = None, temperature: float | None = None
) -> list[Answer]:
    """Request a chat completion for each message. Settings that are None are not sent.

    Args:
        endpoint: The endpoint.
        requests: User messages.
        max_tokens: Maximum number of tokens of an answer.
        temperature: Sampling temperature.

    Returns:
        One answer per message, with a `Completion` as its value.

    Raises:
        ScoreError: As in `Endpoint.send_all`.
    """
    model = None if endpoint.base_url is None else endpoint.model

    def send(request: str) -> tuple[Completion, int | None]:
        messages = [{"role": "user", "content": request}]
        response: Any = endpoint.client.chat_completion(
            messages, model=model, max_tokens=max_tokens, temperature=temperature
        )
        if not isinstance(response.choices, list):
            raise ValueError(f"no chat completion, but {str(dict(response))[:200]}")
        choice = response.choices[0] if response.choices else None
        text = getattr(getattr(choice, "message", None), "content", None)
        truncated = getattr(choice, "finish_reason", None) == "length"
        return Completion(text if isinstance(text, str) else "", truncated), _num_tokens(response.usage)

    return endpoint.send_all(send, [request.encode("utf-8", "replace").decode() for request in requests])


def embed(
    endpoint: Endpoint, texts: Sequence[str], batch_size: int = 32, dimensions: int | None = None
) -> tuple[np.ndarray, list[str]]:
    """Request an embedding for each text.

    Args:
        endpoint: Endpoint with a `base_url`.
        texts: Texts, none of them empty.
        batch_size: Number of texts per request. A request that is refused is sent again in halves.
        dimensions: Number of dimensions of the embeddings, for models that can shorten them.

    Returns:
        The embeddings, float32 of shape (texts, dimensions), NaN for a text without one (with 0 dimensions if no text
        has one); and the reason of each text, "" if it has an embedding.

    Raises:
        ConfigError: The endpoint has no `base_url`.
        ScoreError: As in `Endpoint.send_all`, or the embeddings have different lengths.
    """
    if endpoint.base_url is None:
        raise ConfigError("Embeddings need an endpoint with a base_url.")
    options = {} if dimensions is None else {"dimensions": dimensions}

    def send(part: list[int]) -> tuple[np.ndarray, int | None]:
        inputs = [texts[index].encode("utf-8", "replace").decode() for index in part]
        body = {"model": endpoint.model, "input": inputs, "encoding_format": "float", **options}
        response = endpoint.post("embeddings", body)
        by_index = {item.get("index", index): item["embedding"] for index, item in enumerate(response["data"])}
        vectors = np.array([by_index[index] for index in range(len(part))], dtype=np.float32)
        if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
            raise ValueError("no vectors of finite numbers")
        return vectors, _num_tokens(response.get("usage"))

    parts = [list(range(len(texts)))[start : start + batch_size] for start in range(0, len(texts), batch_size)]
    embeddings: dict[int, np.ndarray] = {}
    reasons = ["no_answer"] * len(texts)
    while parts and not (embeddings and endpoint.has_failed):  # embeddings received before a failure are returned
        halves = []
        for part, answer in zip(parts, endpoint.send_all(send, parts, lambda part: len(part) > 1), strict=True):
            if not answer.reason:
                embeddings.update(zip(part, answer.value, strict=True))
            elif answer.reason == "refused" and len(part) > 1:
                halves += [part[: len(part) // 2], part[len(part) // 2 :]]
                continue
            for index in part:
                reasons[index] = answer.reason
        parts = halves
    lengths = {len(vector) for vector in embeddings.values()}
    if len(lengths) > 1:
        raise ScoreError(f"{endpoint.name} gives vectors of {sorted(lengths)} numbers.")
    vectors = np.full((len(texts), max(lengths, default=0)), np.nan, dtype=np.float32)
    for index, vector in embeddings.items():
        vectors[index] = vector
    return vectors, reasons


def _num_tokens(usage: Any) -> int | None:
    """Return the tokens of prompt and completion, or None if the server does not report them."""
    names = ("prompt_tokens", "completion_tokens")
    counts = [usage.get(name) or 0 for name in names] if isinstance(usage, dict) else []
    return sum(counts) if any(counts) and all(type(count) is int and count >= 0 for count in counts) else None
