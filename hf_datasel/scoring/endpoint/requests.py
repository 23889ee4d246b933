"""Requests to an endpoint: chat completions and embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hf_datasel.errors import ConfigError, ScoreError
from hf_datasel.formats.messages import MalformedRowError, read_messages
from hf_datasel.scoring.endpoint.client import Answer, Endpoint
from hf_datasel.scoring.endpoint.errors import RequestFailure, request_errors

__all__ = ["Completion", "chat", "embed"]

_LIMIT, _NEW_LIMIT = "max_tokens", "max_completion_tokens"


class Completion(NamedTuple):
    """Answer of a chat model.

    Attributes:
        text: Text of the answer, with tool calls as JSON on a line of their own, as in the text of a row.
        finish_reason: Why the answer ends, as the server calls it: `stop`, `length` or `content_filter`, for example.
    """

    text: str
    finish_reason: str = "stop"

    @property
    def truncated(self) -> bool:
        """Whether the answer ends early, at the maximum number of tokens."""
        return self.finish_reason == "length"


def _asks_for_new_limit(failure: RequestFailure) -> bool:
    """Return whether a model only takes the newer name of the maximum number of tokens."""
    return failure.status == 400 and _NEW_LIMIT in failure.message


def chat(
    endpoint: Endpoint, requests: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> Iterator[tuple[int, Answer]]:
    """Request a chat completion for each request. Settings that are None are not sent.

    If the endpoint answers that a model takes `max_completion_tokens` and not `max_tokens`, that is what is sent.

    Args:
        endpoint: The endpoint.
        requests: What is sent in each request alone: `messages`, and options such as `tools`.
        settings: What is sent in all of them, as endpoints call it, such as `max_tokens` and `temperature`.

    Yields:
        The index of a request and its answer, with a `Completion` as its value, as they come.

    Raises:
        ScoreError: As in `Endpoint.answers`.
    """
    options = {name: value for name, value in settings.items() if value is not None}

    def post(request: dict[str, Any], options: dict[str, Any]) -> Any:
        if endpoint.base_url is not None:
            return endpoint.post("chat/completions", {"model": endpoint.model, **request, **options})
        arguments: dict[str, Any] = {**request, **options}
        if _NEW_LIMIT in arguments:  # which the client does not have
            arguments["extra_body"] = {_NEW_LIMIT: arguments.pop(_NEW_LIMIT)}
        return endpoint.hub_client.chat_completion(**arguments)

    def send(request: dict[str, Any]) -> tuple[Completion, int | None]:
        nonlocal options
        sent = options  # another thread may change it meanwhile
        try:
            response = post(request, sent)
        except request_errors() as error:
            if _LIMIT not in sent or not _asks_for_new_limit(endpoint.read_failure(error)):
                raise
            options = {_NEW_LIMIT if name == _LIMIT else name: value for name, value in sent.items()}
            response = post(request, options)
        choices = response.get("choices")
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise ValueError(f"no chat completion, but {str(dict(response))[:200]}")
        choice = choices[0] if choices else {}
        text, finish_reason = _message_text(_item(choice, "message")), str(_item(choice, "finish_reason"))
        return Completion(text, finish_reason), _num_tokens(response.get("usage"))

    return endpoint.answers(send, [_utf8(request) for request in requests])


def embed(
    endpoint: Endpoint, texts: Sequence[str], batch_size: int, dimensions: int | None = None
) -> Iterator[tuple[list[int], np.ndarray | None, str]]:
    """Request an embedding for each text.

    Args:
        endpoint: Endpoint with a `base_url`.
        texts: Texts, none of them empty.
        batch_size: Number of texts per request. A request that is refused is sent again in halves.
        dimensions: Number of dimensions of the embeddings, for models that can shorten them.

    Yields:
        The indices of some texts, as their answer comes: with their embeddings, float32 of shape (texts, dimensions),
        and "", or with None and the reason. Each text once.

    Raises:
        ConfigError: The endpoint has no `base_url`.
        ScoreError: As in `Endpoint.answers`, or the embeddings have different lengths.
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
    lengths = set[int]()
    while parts:
        halves: list[list[int]] = []
        if lengths and endpoint.has_failed:  # embeddings received before a failure are returned
            yield [index for part in parts for index in part], None, "no_answer"
            return
        for position, answer in endpoint.answers(send, parts, lambda part: len(part) > 1):
            part = parts[position]
            if not answer.reason:
                lengths.add(answer.value.shape[1])
                if len(lengths) > 1:
                    raise ScoreError(f"{endpoint.name} gives vectors of {sorted(lengths)} numbers.")
                yield part, answer.value, ""
            elif answer.reason == "refused" and len(part) > 1:
                halves += [part[: len(part) // 2], part[len(part) // 2 :]]
            else:
                yield part, None, answer.reason
        parts = sorted(halves)


def _message_text(message: Any) -> str:
    """Return the content of a message and its tool calls, as in the text of a turn; empty if it has neither."""
    content, calls = _item(message, "content"), _item(message, "tool_calls")
    content = content if isinstance(content, str) else ""
    if not calls:
        return content
    try:
        [turn] = read_messages([{"role": "assistant", "content": content, "tool_calls": calls}], "the answer")
    except MalformedRowError as error:
        raise ValueError(f"no chat completion: {error.detail}") from error
    read = (turn.message or {})["tool_calls"]
    named = [{name: call[name] for name in call if name in ("type", "function")} for call in read]
    return "\n".join(part for part in (content, json.dumps(named, ensure_ascii=False, sort_keys=True)) if part)


def _utf8(value: Any) -> Any:
    """Return a value of a request without lone surrogates, which no request can hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {name: _utf8(item) for name, item in value.items()}
    return [_utf8(item) for item in value] if isinstance(value, list) else value


def _item(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _num_tokens(usage: Any) -> int | None:
    """Return the tokens of prompt and completion, or None if the server does not report them."""
    names = ("prompt_tokens", "completion_tokens")
    counts = [usage.get(name) or 0 for name in names] if isinstance(usage, dict) else []
    return sum(counts) if any(counts) and all(type(count) is int and count >= 0 for count in counts) else None
