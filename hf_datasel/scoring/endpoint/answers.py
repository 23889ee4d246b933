"""Answers of a chat model behind an endpoint to the prompts of rows; each distinct prompt is requested once."""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import FormatError
from hf_datasel.formats import Row
from hf_datasel.formats.messages import with_text_arguments
from hf_datasel.scoring.base import null_counts
from hf_datasel.scoring.endpoint.client import Answer, Endpoint
from hf_datasel.scoring.endpoint.requests import Completion, chat
from hf_datasel.scoring.generation import Decoding
from hf_datasel.scoring.runner import ModelRunner

if TYPE_CHECKING:
    from hf_datasel.tokens import TokenRows

__all__ = ["EndpointAnswers", "check_format", "pack", "packed_width", "unpack"]

logger = logging.getLogger(__name__)

_FINAL = ["", "refused", "empty_generation"]
"""Outcomes that are cached in the score store, by their code there."""
_OPEN = ["", "no_answer", "budget_spent"]
"""Outcomes after which later runs send the request again, by their code here."""
_BYTES_PER_TOKEN = 8
"""Bytes of compressed text for which there is room per token; text of any language takes less than half of them."""
_MIN_BYTES = 256
_BYTES_PER_NUMBER = 3
"""Bytes in one float32, which is exact for integers of 24 bits."""


class EndpointAnswers:
    """Answers that a chat model behind an endpoint gives to the prompts of some rows.

    The model gets the messages before the last response of a row, with its tools and its arguments of the chat
    template if it has any, and answers with the chat template of the server. The text of a row without messages is one
    message of the user.

    Args:
        rows: The rows.
        endpoint: Endpoint with a `base_url`.
        excluded: Why each row needs no answer, str of shape (rows,), empty for rows that need one; by default all of
            the rows that can be used need one.
        requests_of: Function that returns the requests of a row; by default one for the answer to its prompt. A row
            without any has the reason `empty_prompt`.
    """

    def __init__(
        self,
        rows: TokenRows,
        endpoint: Endpoint,
        excluded: np.ndarray | None = None,
        requests_of: Callable[[Row], list[dict[str, Any]]] | None = None,
    ):
        self.rows, self.endpoint = rows, endpoint
        self.reasons = (rows.pool.reasons[rows.indices] if excluded is None else excluded).astype(object)
        self._requests_of = _answer_requests if requests_of is None else requests_of
        self._find_distinct()

    def _find_distinct(self) -> None:
        """Find the requests of each row among the distinct ones: their digests, and where each first occurs."""
        ids_by_digest: dict[bytes, int] = {}
        owner, request_ids, first = list[int](), list[int](), list[tuple[int, int]]()
        valid = np.flatnonzero(self.reasons == "")
        for index, row in zip(valid.tolist(), self.rows.pool.rows(self.rows.indices[valid]), strict=True):
            requests = self._requests_of(row)
            if not requests:
                self.reasons[index] = "empty_prompt"
            for number, request in enumerate(requests):
                owner.append(index)
                request_ids.append(ids_by_digest.setdefault(_digest(request), len(ids_by_digest)))
                if len(ids_by_digest) > len(first):
                    first.append((index, number))
        self._owner, self._request_ids = np.array(owner, dtype=np.int64), np.array(request_ids, dtype=np.int64)
        self._first = np.array(first, dtype=np.int64).reshape(-1, 2)
        self._digests = np.frombuffer(b"".join(ids_by_digest), dtype=np.uint8).reshape(-1, 16)

    def compute(
        self, runner: ModelRunner, decoding: Decoding, label: str = "answers"
    ) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Request an answer to each prompt. `Endpoint.log_summary` then says how many there are.

        Args:
            runner: Runner of the scoring call, with its score store; its model is not used.
            decoding: How answers are generated. The seed that is sent with a request depends on its prompt too.
            label: Label of the progress bar.

        Returns:
            The text of each answer without surrounding white space; the row of each, int64, ascending; and the reason
            of each row, "" if all of its requests are answered: `refused` (the endpoint rejects the prompt, which may
            be too long, or filters the answer), `empty_generation` (the tokens were spent before the answer began),
            `no_answer` or `budget_spent`.

        Raises:
            ScoreError: There is no token or no answer at all, or the endpoint rejects the requests.
        """
        num_requests, reasons = len(self._first), self.reasons.copy()
        nulls, settings = null_counts(reasons), _settings(decoding)
        open_codes, request_runner = np.zeros(num_requests), runner.without_model()
        capacity = _MIN_BYTES + _BYTES_PER_TOKEN * decoding.max_new_tokens
        width = 1 + packed_width(capacity)

        def compute(batch: np.ndarray) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
            for position, answer in chat(self.endpoint, self._requests(batch, decoding), settings):
                request_runner.count_tokens(answer.tokens)
                text, reason = _read(answer)
                part = batch[position : position + 1]
                nulls.update([reason] if reason else [])
                result = np.full((1, width), np.nan, dtype=np.float32)
                if reason in _OPEN[1:]:
                    open_codes[part] = _OPEN.index(reason)
                else:
                    result[0, 0], result[0, 1:] = _FINAL.index(reason), pack(text, capacity)
                yield part, result

        results = request_runner.run_as_completed(
            compute,
            num_requests,
            width,
            label=label,
            keys=lambda: self._digests,
            spec=self._spec(decoding),
            dtype=np.float32,
            nulls=nulls,
        )
        self.endpoint.raise_failure()
        open_codes = request_runner.processes.all_reduce(open_codes)
        outcomes = [
            _OPEN[int(open_code)] if np.isnan(code) else _FINAL[int(code)]
            for code, open_code in zip(results[:, 0], open_codes, strict=True)
        ]
        for row, request_id in zip(self._owner.tolist(), self._request_ids.tolist(), strict=True):
            reasons[row] = reasons[row] or outcomes[request_id]
        is_answered = reasons[self._owner] == ""
        owner, request_ids = self._owner[is_answered], self._request_ids[is_answered]
        texts = {request_id: unpack(results[request_id, 1:]) for request_id in np.unique(request_ids)}
        return [texts[request_id] for request_id in request_ids], owner, reasons

    def _spec(self, decoding: Decoding) -> dict[str, Any]:
        server = {"model": self.endpoint.model, "base_url": self.endpoint.base_url}
        settings = {**_settings(decoding), **decoding.random_settings}
        return {"computed": "endpoint_answers", "version": 1, **server, **settings}

    def _requests(self, request_ids: np.ndarray, decoding: Decoding) -> list[dict[str, Any]]:
        first = self._first[request_ids]
        rows = self.rows.pool.rows(self.rows.indices[first[:, 0]])
        requests = [self._requests_of(row)[number] for row, number in zip(rows, first[:, 1], strict=True)]
        if not decoding.temperature:
            return requests
        seeds = [decoding.seed_of(self._digests[request_id].tobytes()) for request_id in request_ids]
        return [{**request, "seed": seed} for request, seed in zip(requests, seeds, strict=True)]


def _settings(decoding: Decoding) -> dict[str, Any]:
    """Return the settings of all requests, as endpoints call them."""
    top_p = None if decoding.top_p == 1 else float(decoding.top_p)
    return {"max_tokens": decoding.max_new_tokens, "temperature": float(decoding.temperature), "top_p": top_p}


def check_format(rows: TokenRows, purpose: str = "answer") -> None:
    """Raise `FormatError` if the rows have no prompt that can be told from the response.

    Args:
        rows: The rows.
        purpose: What the prompt is for, for the message.
    """
    if rows.pool.format == "text":
        raise FormatError(
            f"Rows with only a text column have no prompt to {purpose}. Make prompt and completion columns of them."
        )


def _answer_requests(row: Row) -> list[dict[str, Any]]:
    """Return what a request for an answer to a row consists of; nothing if there is nothing to answer."""
    num_turns = row.response_turns[-1]
    if not any(turn.content.strip() for turn in row.turns[:num_turns]):
        return []
    options = {"tools": row.tools, "chat_template_kwargs": row.chat_template_kwargs}
    present = {name: value for name, value in options.items() if value}
    return [{"messages": with_text_arguments(row.messages[:num_turns]), **present}]


def _digest(request: dict[str, Any]) -> bytes:
    return hashlib.blake2b(json.dumps(request, sort_keys=True).encode(), digest_size=16).digest()


def _read(answer: Answer) -> tuple[str, str]:
    """Return the text of an answer, or the reason why there is none."""
    if answer.reason:
        return "", answer.reason
    completion: Completion = answer.value
    if completion.finish_reason == "content_filter":
        return "", "refused"
    text = completion.text.strip()
    return text, "empty_generation" if completion.truncated and not text else ""


# -- texts as numbers -------------------------------------------------------------------------------------------------
def packed_width(capacity: int) -> int:
    """Return how many numbers hold a text of so many bytes after compression."""
    return 1 + -(-capacity // _BYTES_PER_NUMBER)


def pack(text: str, capacity: int) -> np.ndarray:
    """Return a text as numbers that a score store can hold.

    Args:
        text: The text. If it takes more than `capacity`, which no answer of the requested length does, its end is cut.
        capacity: Maximum number of bytes after compression.

    Returns:
        Float32 of shape (packed_width(capacity),): the number of bytes, then 3 bytes in each number.
    """
    data = _compress(text)
    if len(data) > capacity:
        logger.warning("An answer of %d characters is longer than requested. Its end is cut.", len(text))
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if len(_compress(text[:middle])) <= capacity else (low, middle - 1)
        data = _compress(text[:low])
    padded = np.frombuffer(data + bytes(-len(data) % _BYTES_PER_NUMBER), dtype=np.uint8)
    numbers = np.zeros(packed_width(capacity), dtype=np.float32)
    numbers[0] = len(data)
    numbers[1 : 1 + len(padded) // _BYTES_PER_NUMBER] = padded.reshape(-1, _BYTES_PER_NUMBER) @ [1, 1 << 8, 1 << 16]
    return numbers


def unpack(numbers: np.ndarray) -> str:
    """Return the text that `pack` returned these numbers for."""
    data = numbers[1:].astype("<u4").view(np.uint8).reshape(-1, 4)[:, :_BYTES_PER_NUMBER]
    return zlib.decompress(data.tobytes()[: int(numbers[0])]).decode("utf-8")


def _compress(text: str) -> bytes:
    return zlib.compress(text.encode("utf-8", "replace"), 9)
